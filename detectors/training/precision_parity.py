"""How far reduced precision moves the scores: the same images in fp32 and in the used precision.

A bf16 score is compared with thresholds that were computed in bf16, so a constant shift does no
harm, but images that change their rank do. Both are measured.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field

from detectors.base import Batches, Detector
from detectors.training.calibration import scores_of
from detectors.training.precision import Precision, exact, precision_name
from pipeline.models.device import Compute
from pipeline.settings import Settings

# Validation images that are compared, half normals and half synthetics where both suffice.
IMAGES = 32
# With fewer, two images that trade places lower the rank correlation by more than is allowed, and a
# deviation of so few scores is a guess.
FEWEST = 16
# No warning up to this largest score difference, in standard deviations of the fp32 scores,
DEVIATIONS = 0.25
# and down to this rank correlation.
RANKS = 0.98


class Parity(Settings):
    """Image scores in `precision` against fp32.

    `difference` is the largest absolute difference divided by the standard deviation of the fp32
    scores, `ranks` Spearman's rank correlation; both None below `FEWEST` images, and when fewer
    than two scores differ.
    """

    precision: Precision
    images: int = Field(ge=0)
    difference: float | None = None
    ranks: float | None = None

    @property
    def verdict(self) -> Literal["same", "differs", "unknown"]:
        """`differs` above `DEVIATIONS` or below `RANKS`."""
        if self.difference is None or self.ranks is None:
            return "unknown"
        return "same" if self.difference <= DEVIATIONS and self.ranks >= RANKS else "differs"


def parity(detector: Detector, images: Batches, compute: Compute) -> Parity:
    """Score the images in both precisions; in fp32 there is nothing to compare or to score."""
    precision = precision_name(compute)
    if precision == "fp32":
        # The number of images is recorded even when nothing is scored.
        count = sum(len(next(iter(batch.values()))) for batch in images)
        return Parity(precision=precision, images=count, difference=0.0, ranks=1.0)
    used_N, _ = scores_of(detector, images, compute)
    with exact():
        exact_N, _ = scores_of(detector, images, Compute(compute.device, torch.float32))
    return compare_scores(exact_N, used_N, precision)


def compare_scores(exact_N: np.ndarray, used_N: np.ndarray, precision: Precision) -> Parity:
    """The parity of two (N,) float32 arrays of scores of the same images."""
    if len(exact_N) < FEWEST:
        return Parity(precision=precision, images=len(exact_N))
    # Without two distinct scores there is no deviation to divide by and no ranking.
    if len(np.unique(exact_N)) < 2 or len(np.unique(used_N)) < 2:
        return Parity(precision=precision, images=len(exact_N))
    # SciPy takes half a second to import.
    from scipy.stats import spearmanr

    # In float64, since the difference of close float32 scores loses digits.
    difference = np.abs(exact_N.astype(np.float64) - used_N).max() / exact_N.std(dtype=np.float64)
    ranks = spearmanr(exact_N, used_N).statistic
    return Parity(
        precision=precision, images=len(exact_N), difference=float(difference), ranks=float(ranks)
    )
