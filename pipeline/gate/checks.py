"""The checks of the gate as a table: score, limit, the edits it applies to, and its meaning.

A limit comes from the manifest, is a default, or is calibrated on untouched regions of the
category's normal images. Where nothing could be calibrated (a single image, or no network) a
fallback applies, or the check is inactive. These checks are not the rules of a rule book.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.gate.limits import USUAL_NOISE, Limits
from pipeline.gate.settings import GateSettings
from pipeline.kinds import kind_of, names
from pipeline.records import Edit

# Where a limit comes from, and to which samples a check applies.
Origin = Literal["default", "manifest", "calibrated", "fixed"]
Group = Literal["all", "edits", "controls"]

# Largest share of a control's change mask that may differ visibly: its rim was inpainted.
MAX_CONTROL_CHANGED = 0.4
# An inpainted region may always be this factor farther from the normal patches than the source was
# at the same place: where objects are small and rare, their surroundings are unusual as well.
SOURCE_MARGIN = 1.3
# Checks that do not apply to a control whose surroundings were generated from a prompt: it differs
# from its source and from the normal images, and is still normal, because its product is.
PROMPT_EXEMPT = ("visible_control", "implausible")
# Also the reason where the plan alone shows it, see `foreseen`.
DUPLICATE = "duplicate"
# Checks that do not apply where the product itself is moved, turned, scaled or recoloured: it
# covers most of the image. It is removed only where what it covers is known.
PRODUCT_EXEMPT = ("too_large", "whole_object")
# What replaces a calibrated limit when there is no calibration; None = the check is inactive.
FALLBACK_LIMITS: dict[str, float | None] = {
    "max_outline_ratio": None,
    "min_noise_ratio": USUAL_NOISE[0],
    "max_noise_ratio": USUAL_NOISE[1],
    "max_clipped": 0.10,
    "max_patch_distance": None,
}


@dataclass(frozen=True, slots=True)
class Check:
    """One reason to reject: `score` is above or below (`rejected_when`) the limit named `limit`.

    `expectation` says what the check expects of a sample. `kinds` restricts it to some kinds
    (empty = all), `inpainted_only` to samples with an inpainted region.
    """

    reason: str
    score: str
    rejected_when: Literal["above", "below"]
    limit: str
    expectation: str
    applies_to: Group = "edits"
    kinds: tuple[str, ...] = ()
    inpainted_only: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check on one sample. `limit` is None where the check is inactive."""

    check: Check
    score: float
    limit: float | None
    origin: Origin
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "reason": self.check.reason,
            "score": self.check.score,
            "value": self.score,
            "refused_when": self.check.rejected_when,
            "limit": self.limit,
            "origin": self.origin,
            "passed": self.passed,
            "words": self.check.expectation,
        }


# The order decides which reason a sample with several failures gets: cheap and obvious ones first.
CHECKS = (
    Check("empty", "change_area", "below", "EMPTY", "the edit changes some pixels", "all"),
    Check("too_large", "change_area", "above", "max_change_area",
         "the edited region is a part of the image, not most of it"),
    Check("whole_object", "foreground_share", "above", "max_foreground_share",
         "the edit leaves most of the product"),
    Check("touches_border", "border", "above", "max_border",
         "the edit does not run along the image's border"),
    Check("unchanged", "changed_fraction", "below", "min_changed_fraction",
         "enough of the edited region differs visibly"),
    Check("faint", "delta_e", "below", "min_delta_e", "the change of colour is visible"),
    Check("look_alike", "object_delta_e", "below", "min_swap_delta_e",
         "the new object looks different from the one that was there",
         kinds=names(lambda kind: kind.replaces)),
    Check("altered_control", "changed_fraction", "above", "CONTROL_CHANGED",
         "the control left the object unchanged", "controls",
         names(lambda kind: kind.control and kind.mask_shows == "object")),
    Check("visible_control", "delta_e", "above", "max_control_delta_e",
         "the control looks unchanged", "controls"),
    Check("left_behind", "left_behind", "above", "max_left_behind",
         "nothing of a removed object stays beside its place"),
    Check("seam", "seam_ratio", "above", "max_seam_ratio",
         "the edit left no seam along its outline", "all"),
    Check("outline", "outline_ratio", "above", "max_outline_ratio",
         "the outline stands out no more than an outline on an untouched image", "all"),
    Check("too_smooth", "noise_ratio", "below", "min_noise_ratio",
         "the inpainted region has the sensor noise of its surroundings, not less", "all"),
    Check("too_noisy", "noise_ratio", "above", "max_noise_ratio",
         "the inpainted region has the sensor noise of its surroundings, not more", "all"),
    Check("saturated", "clipped", "above", "max_clipped",
         "the edit made few pixels fully black or white", "all"),
    Check(DUPLICATE, "duplicate_iou", "above", "max_duplicate_iou",
         "no earlier sample of this image is the same edit", "all"),
    Check("implausible", "patch_distance", "above", "max_patch_distance",
         "the inpainted region resembles something that normal images show", "all",
         inpainted_only=True),
    Check("too_normal", "image_distance", "below", "min_image_distance",
         "the image as a whole differs from every normal image"),
)  # fmt: skip


def findings(
    edit: Edit, scores: Mapping[str, float], settings: GateSettings, limits: Limits
) -> list[Finding]:
    """The results of all checks that apply to this edit, in the order of the table.

    Checks whose score was not measured are left out.
    """
    found = []
    for check in CHECKS:
        if not _concerns(check, edit) or check.score not in scores:
            continue
        if check.inpainted_only and not scores.get("painted"):
            continue
        limit, origin = limit_of(check.limit, settings, limits)
        # An object rotated or scaled at its place covers much of its old pixels again.
        if check.reason == "unchanged" and limit is not None and kind_of(edit.kind).resamples:
            limit /= 2
        if check.inpainted_only and limit is not None and origin == "calibrated":
            limit = max(limit, SOURCE_MARGIN * scores.get("patch_before", 0.0))
        score = scores[check.score]
        beyond = limit is not None and (
            score > limit if check.rejected_when == "above" else score < limit
        )
        found.append(Finding(check, score, limit, origin, not beyond))
    return found


def limit_of(name: str, settings: GateSettings, limits: Limits) -> tuple[float | None, Origin]:
    """A limit and where it comes from; a number in the manifest beats a calibrated one."""
    if name == "EMPTY":
        # Any changed pixel is enough.
        return 1e-9, "fixed"
    if name == "CONTROL_CHANGED":
        return MAX_CONTROL_CHANGED, "fixed"
    # All other names are fields of `GateSettings`.
    value = getattr(settings, name)
    if value is not None:
        usual = GateSettings.model_fields[name].default
        return float(value), "default" if value == usual else "manifest"
    learned = getattr(limits, name)
    if learned is not None:
        return float(learned), "calibrated"
    return FALLBACK_LIMITS[name], "default"


def _concerns(check: Check, edit: Edit) -> bool:
    if edit.is_control and "prompt" in edit.parameters and check.reason in PROMPT_EXEMPT:
        return False
    if edit.parameters.get("whole_product") and check.reason in PRODUCT_EXEMPT:
        return False
    if check.kinds and edit.kind not in check.kinds:
        return False
    return check.applies_to == "all" or (check.applies_to == "controls") == edit.is_control


def stored_limits(index: Mapping[str, Any]) -> tuple[GateSettings, Limits] | None:
    """The gate's settings and calibrated limits of a version, None where they are unknown here.

    `index` is the content of the version's index.json.
    """
    # Versions of other releases may have settings or limits that this one does not know.
    stated, learned = index["settings"].get("gate") or {}, index.get("limits") or {}
    known = {field.name for field in fields(Limits)}
    try:
        settings = GateSettings.model_validate(stated)
        limits = Limits(**{name: value for name, value in learned.items() if name in known})
    except (ValidationError, TypeError):
        return None
    return settings, limits


# Maps the record of a sample to limits as text (`≤ 0.4`) by score; scores without a limit are
# absent.
LimitTexts = Callable[[Mapping[str, Any]], dict[str, str]]


def score_limits(index: Mapping[str, Any]) -> LimitTexts:
    """The limits of a version as text, per sample; none where its settings are unknown here.

    `index` is the content of the version's index.json.
    """
    found = stored_limits(index)
    if found is None:
        return lambda record: {}
    settings, limits = found

    def texts(record: Mapping[str, Any]) -> dict[str, str]:
        edit = Edit.from_json(record["edit"])
        sides: dict[str, list[str]] = {}
        for finding in findings(edit, record["scores"], settings, limits):
            if finding.limit is None or finding.check.reason == "empty":
                continue
            sign = "≤" if finding.check.rejected_when == "above" else "≥"
            sides.setdefault(finding.check.score, []).append(f"{sign} {finding.limit:.3g}")
        return {score: ", ".join(sorted(found, reverse=True)) for score, found in sides.items()}

    return texts
