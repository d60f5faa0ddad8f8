"""Image-level metrics: how well do the scores tell anomalous images from normal ones?

A higher score is more anomalous; an image raises the alarm when `score >= threshold`; equal scores
are one threshold. Everything here follows from two counts per threshold, so whoever has counts for
a thousand resamples (metrics_bootstrap) gets a thousand values by the same few lines.

AUROC is P(anomalous > normal) + P(equal) / 2. Average precision is the sum of precision times gain
in recall, without interpolation. Both are scikit-learn's definitions; its functions are the
reference in the tests, and not called here because they take one sample at a time.

Shapes: N images; T distinct scores, highest first; R resamples; P points of a curve.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detectors.metrics.validate import binary_labels, finite_scores

RECALL = 0.9
METRICS = ("image_auroc", "image_ap", "image_f1", "precision_at_recall_90")
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class ImageMetrics:
    """Image-level metrics in [0, 1], all None when `reason` says why they do not exist.

    `image_f1` is the best one, reached by alarms at `image_f1_threshold` (the lowest such
    threshold). `roc_P2` holds (false positive rate, recall) from (0, 0) to (1, 1), `pr_P2` (recall,
    precision), both float64 and ordered by falling threshold.
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
    reason = one_class(normal, anomalous)
    if reason:
        empty = np.empty((0, 2))
        return ImageMetrics(normal, anomalous, None, None, None, None, None, empty, empty, reason)
    true_1T, false_1T = alarms(labels, scores, np.ones((1, len(scores)), np.int64))
    (true_T,), (false_T,) = true_1T, false_1T
    value = {name: float(value_1[0]) for name, value_1 in from_alarms(true_1T, false_1T).items()}
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
    """Why there is nothing to measure, or nothing."""
    if not normal and not anomalous:
        return "there are no images"
    if not anomalous:
        return "there are no anomalous images"
    return "" if normal else "there are no good images"


def alarms(
    labels_N: np.ndarray, scores_N: np.ndarray, counts_RN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(R, T) int64: anomalous and normal images that reach each distinct score, highest first.

    `counts_RN` says how often each image occurs in each resample.
    """
    order = np.argsort(-scores_N, kind="stable")
    ranked = scores_N[order]
    ends_T = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    counts_RN = counts_RN[:, order].astype(np.int64, copy=False)
    all_RT = np.cumsum(counts_RN, 1)[:, ends_T]
    true_RT = np.cumsum(counts_RN * labels_N[order], 1)[:, ends_T]
    return true_RT, all_RT - true_RT


def from_alarms(true_RT: np.ndarray, false_RT: np.ndarray) -> dict[str, np.ndarray]:
    """(R,) float64 per metric; every resample must hold images of both classes."""
    positives_R1, negatives_R1 = true_RT[:, -1:], false_RT[:, -1:]
    gained_RT = np.diff(true_RT, axis=1, prepend=0)
    passed_RT = np.diff(false_RT, axis=1, prepend=0)
    # The highest scores may be missing from a resample: no alarm there, and nothing gained.
    precision_RT = true_RT / np.maximum(true_RT + false_RT, 1)
    twice_the_area_R = (passed_RT * (2 * true_RT - gained_RT)).sum(1)
    # Counts, not rates: 0.9 of 10 images is 9 of them, whatever 0.9 is in binary.
    needed_R1 = np.maximum(np.ceil(RECALL * positives_R1 - _ROUNDING), 1)
    return {
        "image_auroc": twice_the_area_R / (2 * positives_R1 * negatives_R1)[:, 0],
        "image_ap": (gained_RT * precision_RT).sum(1) / positives_R1[:, 0],
        "image_f1": _f1(true_RT, false_RT).max(1),
        "precision_at_recall_90": np.where(true_RT >= needed_R1, precision_RT, 0).max(1),
    }


def precision_at_recall(labels_N: ArrayLike, scores_N: ArrayLike, recall: float) -> float | None:
    """The best precision among thresholds with at least that recall; None without anomalies."""
    scores = finite_scores(scores_N)
    labels = binary_labels(labels_N, len(scores))
    if not labels.any():
        return None
    (true_T,), (false_T,) = alarms(labels, scores, np.ones((1, len(scores)), np.int64))
    enough_T = true_T >= at_least(recall, int(labels.sum()))
    return float((true_T / (true_T + false_T))[enough_T].max())


def at_least(share: float, count: int) -> int:
    """The smallest number of `count` things that is at least that share of them; never 0."""
    return max(1, math.ceil(share * count - _ROUNDING))


def _f1(true_RT: np.ndarray, false_RT: np.ndarray) -> np.ndarray:
    """One division of whole numbers, so that equal values are equal bit by bit."""
    return 2 * true_RT / (true_RT + false_RT + true_RT[:, -1:])
