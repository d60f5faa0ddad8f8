"""The macro AUROC of a comparison with its interval (95 %).

It is a percentile bootstrap over normals and, within each kind, over samples
(`detectors.metrics.bootstrap` has its limits). Shares have `detectors.metrics.wilson`.

Shapes: N normals; M anomalous samples; R resamples.
"""

from collections.abc import Mapping

import numpy as np

from detectors.metrics.bootstrap import (
    RESAMPLES,
    Interval,
    interval,
    resample_counts,
    resampled,
)
from detectors.metrics.image import image_metrics


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
