"""Pixel AUROC and pixel average precision over all pixels of a test set, good images included.

The same definitions as for images (metrics_image), read off the ladder of scores of marked pixels:
no other threshold changes the number of marked pixels that are found.

Shapes: V distinct scores of marked pixels, highest first.
"""

import numpy as np

from detectors.metrics.aupro import Ladder


def pixel_auroc(ladder: Ladder) -> float:
    """P(marked > unmarked) + P(equal) / 2; needs both kinds of pixels."""
    # Unmarked pixels below a score, those that equal it by half; float64, for 3e7 x 5e8 pairs.
    lower_V = ladder.outside - (ladder.false_V + ladder.above_V) / 2
    return float(_gained(ladder) @ lower_V / ladder.marked_V[-1] / ladder.outside)


def pixel_ap(ladder: Ladder) -> float:
    """The sum over falling thresholds of gain in recall times precision; needs marked pixels."""
    return float(_gained(ladder) @ precisions(ladder) / ladder.marked_V[-1])


def precisions(ladder: Ladder) -> np.ndarray:
    """(V,) float64: the share of marked ones among all pixels that reach each score."""
    precision_V: np.ndarray = ladder.marked_V / (ladder.marked_V + ladder.false_V)
    return precision_V


def _gained(ladder: Ladder) -> np.ndarray:
    return np.diff(ladder.marked_V, prepend=0).astype(np.float64)
