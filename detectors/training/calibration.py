"""What a trained detector's scores mean: thresholds, and how well it tells synthetics apart.

Everything comes from the validation split: its normals, and the samples that were forged from them.
An image raises the alarm when `score >= threshold`. No threshold equals a score it was made from,
so those who compare with `>` get the same alarms.

Shapes: B batch; N images.
"""

from typing import Any

import numpy as np
import torch
from pydantic import Field

from detectors.base import Batches, Detector
from detectors.heatmaps import normal_heat
from detectors.metrics.image import image_metrics
from pipeline.kinds import KINDS
from pipeline.models.device import Compute
from pipeline.settings import Settings

NO_NORMALS = "the version has no validation normals"
NO_SYNTHETICS = "the version has no anomalous samples in its validation split"


class Calibration(Settings):
    """Thresholds on image scores, and image AUROC of validation normals against synthetics.

    `threshold_1` and `threshold_5` let at most 1 and 5 % of the validation normals raise the alarm
    (with fewer than 100 or 20 of them: none); `threshold_f1` gives the best F1 on normals and
    synthetics. `control_false_alarms` is the share of controls (edits that changed no meaning) at
    or above `threshold_5`. `heat` are the map values at which overlays begin and are full
    (`detectors.heatmaps`). A value that does not exist is None, and `notes` says why.
    """

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
    """Score the validation split and look at the scores.

    `normals` have `image`; `pairs` have `edited`, `label` and `kind`, controls included.
    """
    normal_N, _ = scores_of(detector, normals, compute)
    pair_N, numbers = scores_of(detector, pairs, compute)
    labels_N = numbers.get("label", np.zeros(0, np.int64))
    kinds_N = numbers.get("kind", np.zeros(0, np.int64))
    found = from_scores(normal_N, pair_N, labels_N, kinds_N)
    return found.model_copy(update={"heat": normal_heat(detector, normals, compute)})


def from_scores(
    normal_N: np.ndarray, pair_N: np.ndarray, labels_N: np.ndarray, kinds_N: np.ndarray
) -> Calibration:
    """The calibration that follows from scores of normals, and of pairs with labels and kinds."""
    anomalous_N, control_N = pair_N[labels_N == 1], pair_N[labels_N == 0]
    counts: dict[str, Any] = {
        "normals": len(normal_N),
        "synthetics": len(anomalous_N),
        "controls": len(control_N),
    }
    if not len(normal_N):
        names = "threshold_1", "threshold_5", "threshold_f1", "auroc", "control_false_alarms"
        return Calibration(**counts, notes=dict.fromkeys(names, NO_NORMALS))
    notes = {}
    threshold_5 = false_alarm_threshold(normal_N, 0.05)
    false_alarms = None
    if len(control_N):
        false_alarms = float((control_N >= threshold_5).mean())
    else:
        notes["control_false_alarms"] = "the version has no controls in its validation split"
    auroc, threshold_f1 = _against(normal_N, anomalous_N)
    if auroc is None:
        notes |= {"auroc": NO_SYNTHETICS, "threshold_f1": NO_SYNTHETICS}
    over = 0 if threshold_f1 is None else int((normal_N >= threshold_f1).sum())
    if over > len(normal_N) / 5:
        notes["threshold_f1_alarms"] = (
            f"{over} of {len(normal_N)} validation normals lie above threshold_f1: with many "
            "synthetics to a normal the best F1 may alarm on nearly everything"
        )
    by_kind = {}
    for number in np.unique(kinds_N[labels_N == 1]).tolist():
        of_kind, _ = _against(normal_N, pair_N[(labels_N == 1) & (kinds_N == number)])
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
    """The lowest float32 that at most `share` of the scores reach; just above one of them."""
    allowed = int(share * len(normal_N) + 1e-9)  # 0.05 * 20 is one image, whatever binary says
    kept = np.sort(normal_N.astype(np.float32))[::-1][allowed]
    return float(np.nextafter(kept, np.float32(np.inf)))


@torch.no_grad()
def scores_of(
    detector: Detector, batches: Batches, compute: Compute
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N,) float32 image scores of `image`, or of `edited` in pairs, and the items' numbers."""
    detector.eval()
    scores: list[np.ndarray] = []
    numbers: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        with compute.autocast():
            image_B = detector(batch["image" if "image" in batch else "edited"]).image_B
        scores.append(image_B.float().cpu().numpy())
        for name, tensor in batch.items():
            if tensor.ndim == 1:
                numbers.setdefault(name, []).append(tensor.cpu().numpy())
    joined = {name: np.concatenate(parts) for name, parts in numbers.items()}
    return np.concatenate([np.zeros(0, np.float32), *scores]), joined


def _against(normal_N: np.ndarray, anomalous_N: np.ndarray) -> tuple[float | None, float | None]:
    """AUROC, and the threshold of the best F1 half way down to the next lower score."""
    labels_N = np.repeat([0, 1], [len(normal_N), len(anomalous_N)])
    scores_N = np.concatenate([normal_N, anomalous_N]).astype(np.float64)
    metrics = image_metrics(labels_N, scores_N)
    reached = metrics.image_f1_threshold
    if reached is None:
        return None, None
    lower_N = scores_N[scores_N < reached]
    if not len(lower_N):
        return metrics.image_auroc, float(np.nextafter(np.float32(reached), np.float32(-np.inf)))
    return metrics.image_auroc, float((reached + lower_N.max()) / 2)
