"""Bootstrap intervals of the image-level metrics: how far could chance alone have moved them?

Images are drawn with replacement within each stratum (good images among good ones, each anomaly
type among its own), so every resample has both classes and every metric exists in it. The interval
is the middle 95 % of the resampled values. Scores are sorted once; a resample is a row of counts.

What it cannot do: with a handful of images it is too narrow, and a perfect ranking has no width at
all. The best F1 chooses its threshold anew in every resample, so its interval leans upwards.

Shapes: N images; R resamples; T distinct scores.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from detectors.metrics.image import METRICS, alarms, from_alarms, one_class
from detectors.metrics.validate import binary_labels, finite_scores

Interval = tuple[float, float]
RESAMPLES = 1000
LEVEL = 0.95
_CELLS = 1 << 21
"""Counts that are worked on at a time: 16 MiB in each of a few arrays."""


def image_intervals(
    labels_N: ArrayLike, scores_N: ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval | None]:
    """The 95 % interval of every image-level metric, stratified by label; None where it is."""
    scores = finite_scores(scores_N)
    labels = binary_labels(labels_N, len(scores))
    counts_RN = draw(labels, resamples, seed)
    return {name: interval(v) for name, v in resampled(labels, scores, counts_RN).items()}


def draw(strata_N: Sequence[object] | np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """(R, N) int32: how often each image occurs in each resample; a stratum keeps its size."""
    strata_N = np.asarray(strata_N)
    rng = np.random.default_rng(seed)
    counts_RN = np.zeros((resamples, len(strata_N)), np.int32)
    for stratum in np.unique(strata_N):
        members = np.flatnonzero(strata_N == stratum)
        picks = rng.integers(0, len(members), (resamples, len(members)))
        picks += np.arange(resamples)[:, None] * len(members)
        counts = np.bincount(picks.ravel(), minlength=picks.size)
        counts_RN[:, members] = counts.reshape(picks.shape)
    return counts_RN


def resampled(
    labels_N: np.ndarray, scores_N: np.ndarray, counts_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """(R,) values of every image-level metric; no values at all where only one class is there."""
    anomalous = int(labels_N.sum())
    if one_class(len(labels_N) - anomalous, anomalous):
        return {name: np.empty(0) for name in METRICS}
    rows = max(1, _CELLS // len(labels_N))
    parts = [
        from_alarms(*alarms(labels_N, scores_N, counts_RN[start : start + rows]))
        for start in range(0, len(counts_RN), rows)
    ]
    return {name: np.concatenate([np.empty(0), *(p[name] for p in parts)]) for name in METRICS}


def interval(values_R: np.ndarray) -> Interval | None:
    """The middle of the resampled values; None when there are none."""
    if not len(values_R):
        return None
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
