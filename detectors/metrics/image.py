"""Image-level metrics: how well scores separate anomalous images from normal ones.

A higher score is more anomalous. An image counts as detected when `score >= threshold`; equal
scores form one threshold. With n anomalous images, and TP and FP the detected ones of each class:

    AUROC                = P(s_anomalous > s_normal) + P(s_anomalous = s_normal) / 2
    AP                   = sum over thresholds of (R_i - R_(i-1)) * P_i, without interpolation
    best F1              = max over thresholds of 2 TP / (TP + FP + n)
    precision at recall  = max P_i over thresholds with R_i >= 0.9

AUROC is the rank statistic of Hanley and McNeil, Radiology 143 (1982). AUROC and AP are defined as
in scikit-learn, which is the reference in the tests. It is not called here because it takes one
sample at a time, while the bootstrap evaluates a thousand resamples of one sorted list.

Shapes: N images; T distinct scores, highest first; R resamples; P points of a curve.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detectors.metrics.validate import binary_labels, finite_scores

# The recall of `precision_at_recall_90`.
RECALL = 0.9
METRICS = ("image_auroc", "image_ap", "image_f1", "precision_at_recall_90")
# Absorbs the rounding of products such as 0.9 * 10 before they are rounded up.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ImageMetrics:
    """Image-level metrics in [0, 1]; with only one class all are None, and `reason` says so.

    `image_f1` is the best F1, reached at `image_f1_threshold` (the lowest such threshold). It is
    optimistic, because the threshold is chosen on the same images. `roc_P2` holds (false positive
    rate, recall) from (0, 0) to (1, 1), `pr_P2` (recall, precision), both float64 and ordered by
    falling threshold.
    """

    normal: int
    anomalous: int
    image_auroc: float | None
    image_ap: float | None
    image_f1: float | None
    image_f1_threshold: float | None
    precision_at_recall_90: float | None
    roc_P2: np.ndarray
    pr_P2: np.ndarray
    reason: str = ""

    def values(self) -> dict[str, float | None]:
        """The metrics that `METRICS` names."""
        return {name: getattr(self, name) for name in METRICS}


def image_metrics(labels_N: ArrayLike, scores_N: ArrayLike) -> ImageMetrics:
    """Every image-level metric of one set of scores; labels are 0 normal, 1 anomalous.

    UserError for a score that is not finite or a label that is not 0 or 1, with its index.
    """
    scores = finite_scores(scores_N)
    labels = binary_labels(labels_N, len(scores))
    anomalous = int(labels.sum())
    normal = len(labels) - anomalous
    # AUROC of one class is undefined; libraries return 0, 1 or NaN for it.
    reason = one_class(normal, anomalous)
    if reason:
        empty = np.empty((0, 2))
        return ImageMetrics(normal, anomalous, None, None, None, None, None, empty, empty, reason)
    # One resample in which every image occurs once.
    once_1N = np.ones((1, len(scores)), np.int64)
    true_1T, false_1T = positives_at_thresholds(labels, scores, once_1N)
    (true_T,), (false_T,) = true_1T, false_1T
    found = metrics_of_counts(true_1T, false_1T)
    value = {name: float(value_1[0]) for name, value_1 in found.items()}
    # The lowest of the best thresholds: with equal F1 it has the higher recall.
    (f1_T,) = _f1(true_1T, false_1T)
    recall_T = true_T / anomalous
    return ImageMetrics(
        normal=normal,
        anomalous=anomalous,
        image_auroc=value["image_auroc"],
        image_ap=value["image_ap"],
        image_f1=value["image_f1"],
        image_f1_threshold=float(np.unique(scores)[::-1][np.flatnonzero(f1_T == f1_T.max())[-1]]),
        precision_at_recall_90=value["precision_at_recall_90"],
        roc_P2=np.vstack([[0.0, 0.0], np.stack([false_T / normal, recall_T], 1)]),
        pr_P2=np.stack([recall_T, true_T / (true_T + false_T)], 1),
    )


def one_class(normal: int, anomalous: int) -> str:
    """The reason why there are no metrics; empty when both classes are present."""
    if not normal and not anomalous:
        return "there is no image"
    if not anomalous:
        return "there is no anomalous image"
    return "" if normal else "there is no good image"


def positives_at_thresholds(
    labels_N: np.ndarray, scores_N: np.ndarray, counts_RN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(R, T) int64 true and false positives at each distinct score, highest first.

    `counts_RN` says how often each image occurs in each resample.
    """
    # Stable, so that the result does not depend on the sorting algorithm.
    order = np.argsort(-scores_N, kind="stable")
    ranked = scores_N[order]
    # The last image of each group of equal scores: counts up to it include the whole group.
    ends_T = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    # int64: float sums would stop being exact, int32 ones could overflow in products.
    counts_RN = counts_RN[:, order].astype(np.int64, copy=False)
    all_RT = np.cumsum(counts_RN, 1)[:, ends_T]
    true_RT = np.cumsum(counts_RN * labels_N[order], 1)[:, ends_T]
    return true_RT, all_RT - true_RT


def metrics_of_counts(true_RT: np.ndarray, false_RT: np.ndarray) -> dict[str, np.ndarray]:
    """(R,) float64 per metric of `METRICS`; every resample must hold images of both classes."""
    positives_R1, negatives_R1 = true_RT[:, -1:], false_RT[:, -1:]
    # New positives of each class at each threshold.
    gained_RT = np.diff(true_RT, axis=1, prepend=0)
    passed_RT = np.diff(false_RT, axis=1, prepend=0)
    # Images with the highest scores may be missing from a resample: no positives, nothing gained.
    precision_RT = true_RT / np.maximum(true_RT + false_RT, 1)
    # Trapezoids over the normal images of each score: those that tie with an anomalous one count
    # by half. In whole numbers the sum is exact.
    twice_the_area_R = (passed_RT * (2 * true_RT - gained_RT)).sum(1)
    # Counts instead of rates: 0.9 of 10 images is 9 of them, although 0.9 is not exact in binary.
    needed_R1 = np.maximum(np.ceil(RECALL * positives_R1 - _ROUNDING), 1)
    return {
        "image_auroc": twice_the_area_R / (2 * positives_R1 * negatives_R1)[:, 0],
        "image_ap": (gained_RT * precision_RT).sum(1) / positives_R1[:, 0],
        "image_f1": _f1(true_RT, false_RT).max(1),
        # The best precision at that recall or more, which is the interpolated precision.
        "precision_at_recall_90": np.where(true_RT >= needed_R1, precision_RT, 0).max(1),
    }


def at_least(share: float, count: int) -> int:
    """The smallest number that is at least this share of `count`; never 0."""
    return max(1, math.ceil(share * count - _ROUNDING))


def _f1(true_RT: np.ndarray, false_RT: np.ndarray) -> np.ndarray:
    """(R, T) F1 at each score, from one division of whole numbers: equal values have equal bits."""
    return 2 * true_RT / (true_RT + false_RT + true_RT[:, -1:])
