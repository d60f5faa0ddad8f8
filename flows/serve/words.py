"""Names of the data in the words that a page uses for them."""

import math
import re
from collections.abc import Callable
from typing import Any

from pipeline.gate.checks import CHECKS
from pipeline.kinds import TABLE

_KINDS = {kind.name: kind.summary for kind in TABLE}
# What each score of the gate measures: a label, and a sentence for who wants to know.
_SCORES = {
    "border": ("along the image border", "share of the border that the edit runs along"),
    "change_area": ("size of the change", "share of the image that may differ"),
    "changed_fraction": ("visibly changed part", "share of the edited region that differs visibly"),
    "clipped": ("black or white pixels", "share of the edited pixels that became black or white"),
    "delta_e": ("change of colour", "mean colour difference inside the edit"),
    "duplicate_iou": ("likeness to an earlier edit", "overlap with an earlier edit of this image"),
    "foreground_share": ("part of the product", "share of the product that the edit covers"),
    "image_distance": ("distance to good images", "distance of the whole image to good images"),
    "left_behind": ("left behind", "what stays of a removed object beside its place"),
    "noise_ratio": ("sensor noise", "noise of the inpainted region against its surroundings"),
    "object_delta_e": ("new against old object", "colour difference to the object before"),
    "outline_ratio": ("visible outline", "strength of the outline against untouched ones"),
    "painted": ("inpainted part", "share of the change that was inpainted"),
    "patch_before": ("unusual place", "distance of the source to good images at this place"),
    "patch_distance": ("unusual background", "distance of the inpainted region to good images"),
    "rules_broken": ("rules broken", "rules of the rule book that the image breaks"),
    "seam_ratio": ("visible seam", "strength of the seam along the outline of the edit"),
}  # fmt: skip
_REASONS = {check.reason: check.expectation for check in CHECKS} | {
    "no_edit": "something in the image fits such an edit",
    "tried_before": "the edit has not been tried on this image before",
}
_VERDICTS = {
    "accepted": ("Anomaly", "accepted; the image shows an anomaly"),
    "control": ("Control", "accepted; edited, and still a good product"),
    "rejected": ("Rejected", "the quality gate rejected it"),
}
_REVIEWS = {
    "new": "not reviewed",
    "keep": "keep",
    "reject": "reject",
    "unsure": "unsure",
    "disputed": "reviewers disagree",
}


def plain(name: str) -> str:
    """An identifier as words: `wrong_colour` becomes `wrong colour`."""
    return name.replace("_", " ")


def kind_text(kind: str) -> str:
    """What a sample of a kind shows; its name where this release does not know it."""
    return _KINDS.get(kind, plain(kind))


def score_label(name: str) -> str:
    return _SCORES[name][0] if name in _SCORES else plain(name)


def score_text(name: str) -> str:
    return _SCORES[name][1] if name in _SCORES else plain(name)


def reason_text(reason: str) -> str:
    """What was expected of a sample that was rejected for this reason; empty where unknown."""
    return _REASONS.get(reason, "")


def verdict_label(verdict: str) -> str:
    return _VERDICTS[verdict][0]


def verdict_text(verdict: str) -> str:
    return _VERDICTS[verdict][1]


def review_label(review: str) -> str:
    return _REVIEWS[review]


def count(number: int) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,}"


def file_size(number: int) -> str:
    """A size in decimal units, as file managers show it."""
    value = float(number)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def short(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None or value == "" else str(value)


def measure(value: float) -> str:
    """A score in few characters, a dash where the sample was not measured."""
    return short(None if math.isnan(value) else float(value))


def bound(value: float) -> str:
    """One end of a range; empty where it is open."""
    return f"{value:.12g}" if math.isfinite(value) else ""


def file_name(path: str) -> str:
    """The last part of a name of an image, which says most of it."""
    return re.split(r"/", path)[-1]


FILTERS: dict[str, Callable[..., Any]] = {
    "plain": plain,
    "kind_text": kind_text,
    "score_label": score_label,
    "score_text": score_text,
    "reason_text": reason_text,
    "verdict_label": verdict_label,
    "verdict_text": verdict_text,
    "review_label": review_label,
    "count": count,
    "file_size": file_size,
    "short": short,
    "measure": measure,
    "bound": bound,
    "file_name": file_name,
}
