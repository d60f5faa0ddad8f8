"""Intervals (95 %) of the two numbers of a comparison: a share of images, and the macro AUROC.

A share has Wilson's score interval (Wilson, "Probable Inference, the Law of Succession, and
Statistical Inference", JASA 22, 1927), which stays inside [0, 1] and keeps a width at 0 of n and n
of n. It treats the images as independent and the threshold as given. The macro AUROC has a
percentile bootstrap over normals and, within each kind, over samples (`detectors.metrics.bootstrap`
has its limits).

Shapes: N normals; M anomalous samples; R resamples.
"""

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

from detectors.metrics.bootstrap import (
    LEVEL,
    RESAMPLES,
    Interval,
    interval,
    resample_counts,
    resampled,
)
from detectors.metrics.image import image_metrics

# 1.96: the normal quantile of a two-sided interval.
Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def wilson(found: int, of: int) -> Interval:
    """Wilson's interval of the share `found / of`; (0, 1) where there is no image."""
    if not of:
        return 0.0, 1.0
    share, spread = found / of, Z * Z / of
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / of + spread / (4 * of)) / (1 + spread)
    # The exact ends at 0 of n and n of n, which rounding would miss by 1e-17.
    return (
        max(0.0, middle - half) if found else 0.0,
        min(1.0, middle + half) if found < of else 1.0,
    )


def auroc_by_kind(normal_N: np.ndarray, by_kind: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Image AUROC of all normals against the samples of each kind."""
    found = {}
    for kind, scores_M in by_kind.items():
        labels = np.repeat([0, 1], [len(normal_N), len(scores_M)])
        value = image_metrics(labels, np.concatenate([normal_N, scores_M])).image_auroc
        # Only None when one of the classes is empty.
        if value is not None:
            found[kind] = value
    return found


def macro_auroc_interval(
    normal_N: np.ndarray,
    by_kind: Mapping[str, np.ndarray],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """The interval of the mean over kinds of `auroc_by_kind`; None without images of a class."""
    if not by_kind or not len(normal_N):
        return None
    # One draw of the normals serves all kinds, as they are compared with the same normals.
    strata = [""] * len(normal_N) + [k for k, scores_M in by_kind.items() for _ in scores_M]
    counts_RN = resample_counts(strata, resamples, seed)
    normals_RN, start = counts_RN[:, : len(normal_N)], len(normal_N)
    total_R = np.zeros(resamples)
    for scores_M in by_kind.values():
        stop = start + len(scores_M)
        counts = np.concatenate([normals_RN, counts_RN[:, start:stop]], 1)
        labels = np.repeat([0, 1], [len(normal_N), len(scores_M)])
        scores = np.concatenate([normal_N, scores_M])
        total_R += resampled(labels, scores, counts)["image_auroc"]
        start = stop
    return interval(total_R / len(by_kind))
