"""Pixel AUROC and pixel average precision over all pixels of a test split, good images included.

The definitions are those of `image`, with pixels inside and outside the ground-truth regions as
classes. Only scores of region pixels are thresholds: at others the true positives do not change.

Shapes: V distinct scores of region pixels, highest first.
"""

import numpy as np

from detectors.metrics.aupro import ThresholdCounts


def pixel_auroc(counts: ThresholdCounts) -> float:
    """P(inside > outside) + P(equal) / 2; needs pixels inside and outside the regions."""
    # Outside pixels below a score, plus half of those that equal it. The products of counts, up to
    # 3e7 x 5e8 pairs on MVTec LOCO, are summed in float64.
    lower_V = counts.outside - (counts.false_V + counts.false_above_V) / 2
    return float(_gained(counts) @ lower_V / counts.true_V[-1] / counts.outside)


def pixel_ap(counts: ThresholdCounts) -> float:
    """The sum over falling thresholds of gain in recall times precision; needs region pixels."""
    return float(_gained(counts) @ precisions(counts) / counts.true_V[-1])


def precisions(counts: ThresholdCounts) -> np.ndarray:
    """(V,) float64 precision at each score: the share of region pixels among those that reach
    it."""
    precision_V: np.ndarray = counts.true_V / (counts.true_V + counts.false_V)
    return precision_V


def _gained(counts: ThresholdCounts) -> np.ndarray:
    """(V,) float64 region pixels with exactly each score."""
    return np.diff(counts.true_V, prepend=0).astype(np.float64)
