"""The rules of the gate as a table: which score, which limit, for which edits, and in words.

A limit is a number of the manifest, a number of ours, or calibrated: learned from untouched regions
of the category's normals. Where nothing could be learned (one image, or no network) a number of
ours stands in, or the rule is silent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.gate.calibration import USUAL_GRAIN, Limits
from pipeline.gate.settings import GateSettings
from pipeline.kinds import kind_of, names
from pipeline.records import Edit

Origin = Literal["default", "manifest", "calibrated", "fixed"]
Who = Literal["all", "edits", "controls"]

MAX_CONTROL_CHANGED = 0.4
"""Share of a control's change mask that may differ visibly: its rim, which was filled anew."""
AS_UNUSUAL = 1.3
"""Painted ground may be this much farther from the normals than what stood there, whatever the
calibrated limit: where parts are small and rare, their surroundings are unusual, too."""
NEW_GROUND = ("visible_control", "implausible")
"""Rules that do not concern a control whose surroundings were painted by a prompt: it looks unlike
its source and unlike the normals, and is none the less as normal as its product."""
STAND_INS: dict[str, float | None] = {
    "max_outline_ratio": None,
    "min_noise_ratio": USUAL_GRAIN[0],
    "max_noise_ratio": USUAL_GRAIN[1],
    "max_clipped": 0.10,
    "max_patch_distance": None,
}
"""What holds for a calibrated limit where no normal was studied; None = the rule is silent."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One reason to refuse: `score` beyond the limit called `limit`, on the side of `sense`."""

    reason: str
    score: str
    sense: Literal["above", "below"]
    limit: str
    words: str
    who: Who = "edits"
    kinds: tuple[str, ...] = ()
    painted: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule found in one sample. `limit` is None where the rule is silent."""

    rule: Rule
    score: float
    limit: float | None
    origin: Origin
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "reason": self.rule.reason,
            "score": self.rule.score,
            "value": self.score,
            "refused_when": self.rule.sense,
            "limit": self.limit,
            "origin": self.origin,
            "passed": self.passed,
            "words": self.rule.words,
        }


RULES = (
    Rule("empty", "change_area", "below", "EMPTY", "the edit changes some pixels", "all"),
    Rule("too_large", "change_area", "above", "max_change_area",
         "the edited region is a part of the picture, not most of it"),
    Rule("whole_object", "foreground_share", "above", "max_foreground_share",
         "the edit leaves most of the product"),
    Rule("touches_border", "border", "above", "max_border",
         "the edit does not run along the frame"),
    Rule("unchanged", "changed_fraction", "below", "min_changed_fraction",
         "enough of the edited region differs visibly"),
    Rule("faint", "delta_e", "below", "min_delta_e", "the change can be seen as a colour"),
    Rule("look_alike", "object_delta_e", "below", "min_swap_delta_e",
         "the new part looks different from the one that was there",
         kinds=names(lambda kind: kind.replaces)),
    Rule("altered_control", "changed_fraction", "above", "CONTROL_CHANGED",
         "the control left the object as it was", "controls",
         names(lambda kind: kind.control and kind.mask_shows == "object")),
    Rule("visible_control", "delta_e", "above", "max_control_delta_e",
         "the control looks unchanged", "controls"),
    Rule("seam", "seam_ratio", "above", "max_seam_ratio",
         "the edit drew no line along its outline", "all"),
    Rule("outline", "outline_ratio", "above", "max_outline_ratio",
         "the outline stands out no more than one laid over an untouched picture", "all"),
    Rule("too_smooth", "noise_ratio", "below", "min_noise_ratio",
         "painted ground has the grain of its surroundings, not less", "all"),
    Rule("too_noisy", "noise_ratio", "above", "max_noise_ratio",
         "painted ground has the grain of its surroundings, not more", "all"),
    Rule("saturated", "clipped", "above", "max_clipped",
         "the edit made few pixels wholly black or white", "all"),
    Rule("duplicate", "duplicate_iou", "above", "max_duplicate_iou",
         "no earlier sample of this image is the same edit", "all"),
    Rule("implausible", "patch_distance", "above", "max_patch_distance",
         "painted ground looks like something that good products show", "all", painted=True),
    Rule("too_normal", "image_distance", "below", "min_image_distance",
         "the picture as a whole is unlike any normal"),
)  # fmt: skip


def findings(
    edit: Edit, scores: Mapping[str, float], settings: GateSettings, limits: Limits
) -> list[Finding]:
    """What every rule that concerns this edit says, in the order in which reasons are given.

    A rule whose score was not measured has nothing to say and is left out.
    """
    found = []
    for rule in RULES:
        if not _concerns(rule, edit) or rule.score not in scores:
            continue
        if rule.painted and not scores.get("painted"):
            continue
        limit, origin = limit_of(rule.limit, settings, limits)
        if rule.reason == "unchanged" and limit is not None and kind_of(edit.kind).resamples:
            limit /= 2
        if rule.painted and limit is not None and origin == "calibrated":
            limit = max(limit, AS_UNUSUAL * scores.get("patch_before", 0.0))
        score = scores[rule.score]
        beyond = limit is not None and (score > limit if rule.sense == "above" else score < limit)
        found.append(Finding(rule, score, limit, origin, not beyond))
    return found


def limit_of(name: str, settings: GateSettings, limits: Limits) -> tuple[float | None, Origin]:
    """A limit and where it comes from."""
    if name == "EMPTY":
        return 1e-9, "fixed"
    if name == "CONTROL_CHANGED":
        return MAX_CONTROL_CHANGED, "fixed"
    value = getattr(settings, name)
    if value is not None:
        usual = GateSettings.model_fields[name].default
        return float(value), "default" if value == usual else "manifest"
    learned = getattr(limits, name)
    if learned is not None:
        return float(learned), "calibrated"
    return STAND_INS[name], "default"


def _concerns(rule: Rule, edit: Edit) -> bool:
    if edit.is_control and "prompt" in edit.parameters and rule.reason in NEW_GROUND:
        return False
    if rule.kinds and edit.kind not in rule.kinds:
        return False
    return rule.who == "all" or (rule.who == "controls") == edit.is_control


Asked = Callable[[Mapping[str, Any]], dict[str, str]]
"""From the record of a sample to `≤ 0.4` by the name of a score; scores without a limit lack."""


def score_limits(index: Mapping[str, Any]) -> Asked:
    """How the limits of a version read; nothing where its settings are of another release."""
    stated, learned = index["settings"].get("gate") or {}, index.get("limits") or {}
    known = {field.name for field in fields(Limits)}
    try:
        settings = GateSettings.model_validate(stated)
        limits = Limits(**{name: value for name, value in learned.items() if name in known})
    except (ValidationError, TypeError):
        return lambda record: {}

    def asked(record: Mapping[str, Any]) -> dict[str, str]:
        edit = Edit.from_json(record["edit"])
        sides: dict[str, list[str]] = {}
        for finding in findings(edit, record["scores"], settings, limits):
            if finding.limit is None or finding.rule.reason == "empty":
                continue
            sign = "≤" if finding.rule.sense == "above" else "≥"
            sides.setdefault(finding.rule.score, []).append(f"{sign} {finding.limit:.3g}")
        return {score: ", ".join(sorted(found, reverse=True)) for score, found in sides.items()}

    return asked
