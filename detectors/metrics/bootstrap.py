"""Bootstrap intervals of the image-level metrics (percentile method, stratified).

Images are drawn with replacement within each stratum: good images among good ones, each anomaly
type among its own. So every resample has both classes, and every metric exists in it. The interval
is the middle 95 % of the resampled values (Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13). Scores are sorted once; a resample is a row of counts.

Limits: with a handful of images the interval is too narrow, and a perfect ranking has an interval
of width 0. Best F1 chooses its threshold in every resample again, so its interval is biased
upwards.

Shapes: N images; R resamples; T distinct scores.
"""

from collections.abc import Sequence

import numpy as np

from detectors.metrics.image import METRICS, metrics_of_counts, one_class, positives_at_thresholds

Interval = tuple[float, float]
# A common number for percentile intervals.
RESAMPLES = 1000
LEVEL = 0.95
# Counts that are processed at a time: 16 MiB in each of a few arrays.
_CELLS = 1 << 21


def resample_counts(
    strata_N: Sequence[object] | np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """(R, N) int32: how often each image occurs in each resample; a stratum keeps its size.

    `strata_N` holds any values that can be compared; equal ones are one stratum.
    """
    strata_N = np.asarray(strata_N)
    # One generator for all strata: the draws depend on the order of the sorted strata.
    rng = np.random.default_rng(seed)
    counts_RN = np.zeros((resamples, len(strata_N)), np.int32)
    for stratum in np.unique(strata_N):
        members = np.flatnonzero(strata_N == stratum)
        # Indices within the stratum, as many as it has members.
        picks = rng.integers(0, len(members), (resamples, len(members)))
        # Shifted per resample, one bincount over the flat array counts all resamples at once.
        picks += np.arange(resamples)[:, None] * len(members)
        counts = np.bincount(picks.ravel(), minlength=picks.size)
        counts_RN[:, members] = counts.reshape(picks.shape)
    return counts_RN


def resampled(
    labels_N: np.ndarray, scores_N: np.ndarray, counts_RN: np.ndarray
) -> dict[str, np.ndarray]:
    """(R,) values of every image-level metric; empty arrays where there is only one class."""
    # A single class has no metrics in any resample.
    anomalous = int(labels_N.sum())
    if one_class(len(labels_N) - anomalous, anomalous):
        return {name: np.empty(0) for name in METRICS}
    # Some resamples at a time: R x N counts of a large test split would not fit the memory.
    rows = max(1, _CELLS // len(labels_N))
    parts = [
        metrics_of_counts(
            *positives_at_thresholds(labels_N, scores_N, counts_RN[start : start + rows])
        )
        for start in range(0, len(counts_RN), rows)
    ]
    return {name: np.concatenate([np.empty(0), *(p[name] for p in parts)]) for name in METRICS}


def interval(values_R: np.ndarray) -> Interval | None:
    """The middle 95 % of the resampled values; None when there are none."""
    if not len(values_R):
        return None
    low, high = np.quantile(values_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
