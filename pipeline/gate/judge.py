"""Is this sample good enough? Measured without any real defect, every refusal with its reason.

A good edit changes something that one sees, leaves no seam, no foreign grain and no ground that no
good product shows, and does not swallow the product (the failure that the source method reports for
capsule and pill). A control must leave the object as it was. `gate_scores` measures, `gate_rules`
knows limits and where they come from; what each rule catches is in docs/gate.md.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline.gate.calibration import NormalModel
from pipeline.gate.checks import findings
from pipeline.gate.scores import duplicate_iou, measure, patch_scores
from pipeline.gate.settings import GateSettings
from pipeline.kinds import kind_of
from pipeline.records import Edit, Sample, Verdict


def judge(
    sample: Sample,
    image_HW3: np.ndarray,
    settings: GateSettings | None = None,
    accepted: Sequence[Sample] = (),
    normality: NormalModel | None = None,
) -> Verdict:
    """Accepted, or the first reason against it; `accepted` are earlier samples of the image.

    Each edit of a combined sample is judged by itself; the scores of its second one end in `_2`.
    The network is asked only when nothing else speaks against a sample.
    """
    settings, normality = settings or GateSettings(), normality or NormalModel()
    twin = duplicate_iou(sample, accepted)
    scores: dict[str, float] = {}
    for number, part in enumerate(apart(sample, image_HW3)):
        suffix = "" if number == 0 else f"_{number + 1}"
        found = scores_of(part, image_HW3, settings, normality, twin)
        scores |= {f"{name}{suffix}": value for name, value in found.items()}
        broken = next((f for f in findings(part.edit, found, settings, normality.limits)
                       if not f.passed), None)  # fmt: skip
        if broken:
            return Verdict(False, broken.rule.reason, scores)
    return Verdict(True, "", scores)


def scores_of(
    sample: Sample,
    image_HW3: np.ndarray,
    settings: GateSettings,
    normality: NormalModel,
    twin: float = 0.0,
    *,
    always: bool = False,
) -> dict[str, float]:
    """Every score of one edit, rounded as it is recorded; `twin` is its overlap with others.

    Those of the network are left out where another rule is broken already, unless `always`.
    """
    scores = rounded(measure(sample, image_HW3, settings.change_threshold))
    scores["duplicate_iou"] = round(float(twin), 5)
    bank = normality.patches if settings.patches is not False else None
    if bank is None:
        return scores
    sound = all(f.passed for f in findings(sample.edit, scores, settings, normality.limits))
    if sound or always:
        scores |= rounded(patch_scores(sample, image_HW3, bank))
    return scores


def apart(sample: Sample, image_HW3: np.ndarray) -> list[Sample]:
    """The sample, or one for each edit that a combined one is made of, the others undone.

    How much of picture and product is edited is asked of both edits together.
    """
    if not kind_of(sample.edit.kind).composite:
        return [sample]
    return [_only(part, sample, image_HW3) for part in sample.edit.parts]


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """As numbers are recorded: five decimals."""
    return {name: round(float(value), 5) for name, value in scores.items()}


def _only(part: Edit, sample: Sample, image_HW3: np.ndarray) -> Sample:
    x0, y0, x1, y1 = part.parameters["region"]
    here_HW = np.zeros(sample.change_HW.shape, np.bool_)
    here_HW[y0:y1, x0:x1] = True
    pixels_HW3 = image_HW3.copy()
    pixels_HW3[y0:y1, x0:x1] = sample.pixels_HW3[y0:y1, x0:x1]
    both = {
        "foreground_share": sample.edit.parameters.get("foreground_share", 0.0),
        "change_area": np.count_nonzero(sample.change_HW) / sample.change_HW.size,
    }
    part = replace(part, parameters={**part.parameters, **both})
    return Sample(part, pixels_HW3, sample.change_HW & here_HW, sample.object_HW & here_HW)
