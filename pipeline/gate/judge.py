"""The quality gate: accept or reject a sample, with the first reason; no real defect is needed.

A good edit changes something visible. It leaves no seam, no foreign noise and no background unlike
that of normal products, and does not remove the product itself (a failure that the source method
reports for capsule and pill). A control must leave the object unchanged. `scores.py` measures,
`checks.py` holds limits and their origin; what each check catches is in docs/gate.md.
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
    normal_model: NormalModel | None = None,
) -> Verdict:
    """The verdict on a sample: accepted, or rejected with the first reason.

    `image_HW3` (uint8) is the source, `accepted` are earlier samples of the same image. Each edit
    of a combined sample is judged separately, and the scores of its second edit end in `_2`. The
    network runs only if all other checks pass.
    """
    settings, normal_model = settings or GateSettings(), normal_model or NormalModel()
    overlap = duplicate_iou(sample, accepted)
    scores: dict[str, float] = {}
    # One iteration, except for combined samples.
    for number, part in enumerate(split_combined(sample, image_HW3)):
        suffix = "" if number == 0 else f"_{number + 1}"
        found = scores_of(part, image_HW3, settings, normal_model, overlap)
        scores |= {f"{name}{suffix}": value for name, value in found.items()}
        # The table's order decides which reason is given.
        failed = next((f for f in findings(part.edit, found, settings, normal_model.limits)
                       if not f.passed), None)  # fmt: skip
        if failed:
            return Verdict(False, failed.check.reason, scores)
    return Verdict(True, "", scores)


def scores_of(
    sample: Sample,
    image_HW3: np.ndarray,
    settings: GateSettings,
    normal_model: NormalModel,
    overlap: float = 0.0,
    *,
    always: bool = False,
) -> dict[str, float]:
    """All scores of one edit, rounded as they are recorded.

    `overlap` is its IoU with earlier samples, see `duplicate_iou`. Scores of the network are left
    out if another check has failed already, unless `always`.
    """
    scores = rounded(measure(sample, image_HW3, settings.change_threshold))
    scores["duplicate_iou"] = round(float(overlap), 5)
    bank = normal_model.patches if settings.patches is not False else None
    if bank is None:
        return scores
    # The network is by far the most expensive measure.
    sound = all(f.passed for f in findings(sample.edit, scores, settings, normal_model.limits))
    if sound or always:
        scores |= rounded(patch_scores(sample, image_HW3, bank))
    return scores


def split_combined(sample: Sample, image_HW3: np.ndarray) -> list[Sample]:
    """The sample itself, or for a combined one a sample per edit, with the other edits undone.

    The edited shares of image and product are those of all edits together.
    """
    if not kind_of(sample.edit.kind).composite:
        return [sample]
    return [_only(part, sample, image_HW3) for part in sample.edit.parts]


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Scores with five decimals, as they are recorded."""
    return {name: round(float(value), 5) for name, value in scores.items()}


def _only(part: Edit, sample: Sample, image_HW3: np.ndarray) -> Sample:
    """The sample with one of its edits only; regions of combined edits share no pixel."""
    # Everything outside the edit's region is reset to the source.
    x0, y0, x1, y1 = part.parameters["region"]
    here_HW = np.zeros(sample.change_HW.shape, np.bool_)
    here_HW[y0:y1, x0:x1] = True
    pixels_HW3 = image_HW3.copy()
    pixels_HW3[y0:y1, x0:x1] = sample.pixels_HW3[y0:y1, x0:x1]
    # Recorded for the checks `whole_object` and `too_large`, which concern all edits together.
    both = {
        "foreground_share": sample.edit.parameters.get("foreground_share", 0.0),
        "change_area": np.count_nonzero(sample.change_HW) / sample.change_HW.size,
    }
    part = replace(part, parameters={**part.parameters, **both})
    return Sample(part, pixels_HW3, sample.change_HW & here_HW, sample.object_HW & here_HW)
