"""Calibration of image scores: thresholds, and AUROC of normals against synthetic anomalies.

Everything comes from images that the fit which scored them has not seen: the validation split, and
with cross-fitting the training split, too. An image is an alarm when `score >= threshold`. No
threshold equals a score that it was computed from, so a comparison with `>` gives the same alarms.

A threshold for a false-alarm rate is a conformal one (Vovk, Gammerman, Shafer, "Algorithmic
Learning in a Random World", 2005; split conformal prediction): among N normals and one fresh one,
all ranks are equally likely, so a threshold above all but k of them is reached by the fresh one
with probability (k + 1) / (N + 1). N normals can promise no rate below 1 / (N + 1).

Shapes: B batch; N images; P parts of a score.
"""

import math
from typing import Any

import numpy as np
import torch
from pydantic import Field

from detectors.base import Batches, Detector
from detectors.metrics.image import image_metrics
from pipeline.kinds import KINDS
from pipeline.models.device import Compute
from pipeline.settings import Settings

# Reasons in `notes` for values that do not exist.
NO_NORMALS = "no normal was held out: the version has no validation split"
NO_SYNTHETICS = "no synthetic anomaly of the version was held out"


class Calibration(Settings):
    """Thresholds on image scores, and image AUROC of held-out normals against synthetics.

    A fresh normal reaches `threshold_1` and `threshold_5` with probability `rate_1` and `rate_5`:
    at most 1 and 5 %, or the smallest rate that so few normals can promise. `threshold_f1` has the
    best F1 on normals and synthetics.
    `control_false_alarms` is the share of controls (edits without a logical change) that reach
    `threshold_5`. `heat` holds the map values at which overlays start and saturate
    (`detectors.heatmaps`). A value that does not exist is None, and `notes` gives the reason.
    """

    # Field names are keys of the checkpoint and of its metadata in ONNX files.
    threshold_1: float | None = None
    threshold_5: float | None = None
    threshold_f1: float | None = None
    rate_1: float | None = None
    rate_5: float | None = None
    normals: int = 0
    synthetics: int = 0
    controls: int = 0
    auroc: float | None = None
    auroc_by_kind: dict[str, float] = Field(default_factory=dict)
    control_false_alarms: float | None = None
    heat: tuple[float, float] | None = None
    notes: dict[str, str] = Field(default_factory=dict)


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
    (threshold_1, rate_1), (threshold_5, rate_5) = (
        false_alarm_threshold(normal_N, share) for share in (0.01, 0.05)
    )
    for name, share, rate in (("threshold_1", 0.01, rate_1), ("threshold_5", 0.05, rate_5)):
        if rate > share:
            notes[name] = (
                f"{len(normal_N)} normals can promise a false-alarm rate of {rate:.1%} at best, "
                f"not of {share:.0%}: that takes {normals_for(share)}"
            )
    false_alarms = None
    if len(control_N):
        false_alarms = float((control_N >= threshold_5).mean())
    else:
        notes["control_false_alarms"] = "no control of the version was held out"
    auroc, threshold_f1 = _auroc_and_f1_threshold(normal_N, anomalous_N)
    if auroc is None:
        notes |= {"auroc": NO_SYNTHETICS, "threshold_f1": NO_SYNTHETICS}
    # F1 ignores true negatives: with several synthetics per normal, a threshold that most normals
    # exceed can still have the best F1. A fifth of the normals is worth a warning.
    over = 0 if threshold_f1 is None else int((normal_N >= threshold_f1).sum())
    if over > len(normal_N) / 5:
        notes["threshold_f1_alarms"] = (
            f"{over} of {len(normal_N)} held-out normals exceed threshold_f1: with many "
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
        threshold_1=threshold_1,
        threshold_5=threshold_5,
        rate_1=rate_1,
        rate_5=rate_5,
        threshold_f1=threshold_f1,
        **counts,
        auroc=auroc,
        auroc_by_kind=by_kind,
        control_false_alarms=false_alarms,
        notes=notes,
    )


def false_alarm_threshold(normal_N: np.ndarray, share: float) -> tuple[float, float]:
    """The lowest float32 that a fresh normal reaches with at most that probability, and the rate.

    With too few normals it lies above all their scores, and the rate is above `share`. The rate is
    the expectation over draws of the N normals; `rate_interval` has its spread. The threshold is
    the next float32 above one of the scores.
    """
    # Normals that may reach it; the small addition absorbs the rounding of binary fractions.
    reaching = max(int(share * (len(normal_N) + 1) + 1e-9) - 1, 0)
    kept = np.sort(normal_N.astype(np.float32))[::-1][reaching]
    threshold = float(np.nextafter(kept, np.float32(np.inf)))
    return threshold, (reaching + 1) / (len(normal_N) + 1)


def normals_for(share: float) -> int:
    """The number of normals that a false-alarm rate of `share` takes."""
    return math.ceil(1 / share - 1 - 1e-9)


def rate_interval(normals: int, rate: float, level: float = 0.95) -> tuple[float, float]:
    """Where the false-alarm rate of a threshold lies that promises `rate` from so many normals.

    The rate of a threshold above all but k of N scores has the distribution Beta(k + 1, N - k), the
    one of an order statistic of uniform numbers; the interval is its middle `level`.
    """
    # SciPy takes half a second to import.
    from scipy.stats import beta

    reaching = round(rate * (normals + 1)) - 1
    low, high = beta.interval(level, reaching + 1, normals - reaching)
    return float(low), float(high)


@torch.no_grad()
def scores_of(
    detector: Detector, batches: Batches, compute: Compute
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N,) float32 image scores of `image`, or of `edited` in pairs, and the batches' columns.

    Columns are the one-dimensional tensors of the batches, such as `label` and `kind`, joined.
    """
    parts_NP, columns = parts_of(detector, batches, compute)
    return combined_scores(detector, parts_NP), columns


@torch.no_grad()
def parts_of(
    detector: Detector, batches: Batches, compute: Compute
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(N, P) float64 parts of the scores, and columns as in `scores_of`; P is 0 without images."""
    # In training mode, batch statistics would make a score depend on its batch.
    detector.eval()
    parts: list[np.ndarray] = []
    numbers: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        with compute.autocast():
            # Normals come as `image`; pairs come as `original` and `edited`, and the edited one is
            # scored.
            parts_BP = detector.parts(batch["image" if "image" in batch else "edited"])
        parts.append(parts_BP.double().cpu().numpy())
        for name, tensor in batch.items():
            if tensor.ndim == 1:
                numbers.setdefault(name, []).append(tensor.cpu().numpy())
    joined = {name: np.concatenate(columns) for name, columns in numbers.items()}
    return np.concatenate(parts) if parts else np.zeros((0, 0)), joined


@torch.no_grad()
def combined_scores(detector: Detector, parts_NP: np.ndarray) -> np.ndarray:
    """(N,) float32 image scores of parts."""
    # Without images the number of parts is unknown.
    if not len(parts_NP):
        return np.zeros(0, np.float32)
    device = next(iter(detector.state_dict().values())).device
    parts = torch.from_numpy(parts_NP).float().to(device)
    return detector.combined(parts).float().cpu().numpy()


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
