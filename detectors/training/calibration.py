"""Calibration of image scores: thresholds, and AUROC of normals against synthetic anomalies.

Everything comes from the validation split: its normals, and the samples generated from them. An
image is an alarm when `score >= threshold`. No threshold equals a score that it was computed from,
so a comparison with `>` gives the same alarms.

Shapes: B batch; N images.
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field

from detectors.base import Batches, Detector
from detectors.heatmaps import normal_map_range
from detectors.metrics.image import image_metrics
from pipeline.kinds import KINDS
from pipeline.models.device import Compute
from pipeline.settings import Settings

# Reasons in `notes` for values that do not exist.
NO_NORMALS = "the version has no validation normals"
NO_SYNTHETICS = "the version has no anomalous samples in its validation split"


class Calibration(Settings):
    """Thresholds on image scores, and image AUROC of validation normals against synthetics.

    At most 1 and 5 % of the validation normals reach `threshold_1` and `threshold_5` (none with
    fewer than 100 or 20 of them); `threshold_f1` has the best F1 on normals and synthetics.
    `control_false_alarms` is the share of controls (edits without a logical change) that reach
    `threshold_5`. `heat` holds the map values at which overlays start and saturate
    (`detectors.heatmaps`). A value that does not exist is None, and `notes` gives the reason.
    """

    # Field names are keys of the checkpoint and of its metadata in ONNX files.
    threshold_1: float | None = None
    threshold_5: float | None = None
    threshold_f1: float | None = None
    normals: int = 0
    synthetics: int = 0
    controls: int = 0
    auroc: float | None = None
    auroc_by_kind: dict[str, float] = Field(default_factory=dict)
    control_false_alarms: float | None = None
    heat: tuple[float, float] | None = None
    notes: dict[str, str] = Field(default_factory=dict)


def calibrate(
    detector: Detector, normals: Batches, pairs: Batches, compute: Compute
) -> Calibration:
    """Score the validation split and calibrate on the scores.

    Batches of `normals` have `image`; those of `pairs` have `edited`, `label` and `kind`, and
    include controls. The detector's own statistics must be set already.
    """
    normal_N, _ = scores_of(detector, normals, compute)
    pair_N, numbers = scores_of(detector, pairs, compute)
    # An empty split has no batches and therefore no columns.
    labels_N = numbers.get("label", np.zeros(0, np.int64))
    kinds_N = numbers.get("kind", np.zeros(0, np.int64))
    found = from_scores(normal_N, pair_N, labels_N, kinds_N)
    # The colour scale of heatmaps comes from maps, which are not kept; they are computed again.
    return found.model_copy(update={"heat": normal_map_range(detector, normals, compute)})


def from_scores(
    normal_N: np.ndarray, pair_N: np.ndarray, labels_N: np.ndarray, kinds_N: np.ndarray
) -> Calibration:
    """The calibration for (N,) scores of normals, and of pairs with their labels and kinds.

    Labels are 1 for synthetic anomalies and 0 for controls; kinds are places in `KINDS`.
    """
    anomalous_N, control_N = pair_N[labels_N == 1], pair_N[labels_N == 0]
    # Without normals nothing can be calibrated; every value gets the same reason.
    counts: dict[str, Any] = {
        "normals": len(normal_N),
        "synthetics": len(anomalous_N),
        "controls": len(control_N),
    }
    if not len(normal_N):
        names = "threshold_1", "threshold_5", "threshold_f1", "auroc", "control_false_alarms"
        return Calibration(**counts, notes=dict.fromkeys(names, NO_NORMALS))
    notes = {}
    # Controls should score like normals. Their false alarms measure shortcuts: a detector that sees
    # editing artifacts reports them as well.
    threshold_5 = false_alarm_threshold(normal_N, 0.05)
    false_alarms = None
    if len(control_N):
        false_alarms = float((control_N >= threshold_5).mean())
    else:
        notes["control_false_alarms"] = "the version has no controls in its validation split"
    auroc, threshold_f1 = _auroc_and_f1_threshold(normal_N, anomalous_N)
    if auroc is None:
        notes |= {"auroc": NO_SYNTHETICS, "threshold_f1": NO_SYNTHETICS}
    # F1 ignores true negatives: with several synthetics per normal, a threshold that most normals
    # exceed can still have the best F1. A fifth of the normals is worth a warning.
    over = 0 if threshold_f1 is None else int((normal_N >= threshold_f1).sum())
    if over > len(normal_N) / 5:
        notes["threshold_f1_alarms"] = (
            f"{over} of {len(normal_N)} validation normals exceed threshold_f1: with many "
            "synthetics per normal the best F1 may classify nearly everything as anomalous"
        )
    # Each kind of edit against all normals shows what the detector misses.
    by_kind = {}
    for number in np.unique(kinds_N[labels_N == 1]).tolist():
        of_kind_N = pair_N[(labels_N == 1) & (kinds_N == number)]
        of_kind, _ = _auroc_and_f1_threshold(normal_N, of_kind_N)
        if of_kind is not None:
            by_kind[KINDS[number]] = of_kind
    return Calibration(
        threshold_1=false_alarm_threshold(normal_N, 0.01),
        threshold_5=threshold_5,
        threshold_f1=threshold_f1,
        **counts,
        auroc=auroc,
        auroc_by_kind=by_kind,
        control_false_alarms=false_alarms,
        notes=notes,
    )


def false_alarm_threshold(normal_N: np.ndarray, share: float) -> float:
    """The lowest float32 that at most `share` of the (N,) scores reach.

    It is the next float32 above one of the scores.
    """
    # 0.05 * 20 is one image; the small addition absorbs the rounding of binary fractions.
    allowed = int(share * len(normal_N) + 1e-9)
    # The highest scores may be exceeded by `allowed` images; the next one must stay below.
    kept = np.sort(normal_N.astype(np.float32))[::-1][allowed]
    return float(np.nextafter(kept, np.float32(np.inf)))


@torch.no_grad()
def scores_of(
    detector: Detector, batches: Batches, compute: Compute
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N,) float32 image scores of `image`, or of `edited` in pairs, and the batches' columns.

    Columns are the one-dimensional tensors of the batches, such as `label` and `kind`, joined.
    """
    # In training mode, batch statistics would make a score depend on its batch.
    detector.eval()
    scores: list[np.ndarray] = []
    numbers: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        with compute.autocast():
            # Normals come as `image`; pairs come as `original` and `edited`, and the edited one is
            # scored.
            image_B = detector(batch["image" if "image" in batch else "edited"]).image_B
        scores.append(image_B.float().cpu().numpy())
        for name, tensor in batch.items():
            if tensor.ndim == 1:
                numbers.setdefault(name, []).append(tensor.cpu().numpy())
    joined = {name: np.concatenate(parts) for name, parts in numbers.items()}
    # The empty array gives shape and dtype when there are no batches.
    return np.concatenate([np.zeros(0, np.float32), *scores]), joined


def _auroc_and_f1_threshold(
    normal_N: np.ndarray, anomalous_N: np.ndarray
) -> tuple[float | None, float | None]:
    """AUROC, and the threshold of the best F1, moved half way down to the next lower score.

    Half way, so that it equals no score and leaves the same margin on both sides.
    """
    labels_N = np.repeat([0, 1], [len(normal_N), len(anomalous_N)])
    # float64, so that half-way points between float32 scores are exact.
    scores_N = np.concatenate([normal_N, anomalous_N]).astype(np.float64)
    metrics = image_metrics(labels_N, scores_N)
    # None when one of the classes is missing.
    reached = metrics.image_f1_threshold
    if reached is None:
        return None, None
    lower_N = scores_N[scores_N < reached]
    # Every image is an alarm at the best F1: there is no lower score, take the next float32.
    if not len(lower_N):
        return metrics.image_auroc, float(np.nextafter(np.float32(reached), np.float32(-np.inf)))
    return metrics.image_auroc, float((reached + lower_N.max()) / 2)
