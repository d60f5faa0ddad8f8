"""How far reduced precision moves the scores: the same images once in fp32, once as used.

A bf16 score is compared with thresholds that were made in bf16, so a constant shift does no harm;
images that change places do. Both are measured.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.stats import spearmanr

from detectors.base import Batches, Detector
from detectors.training.calibration import scores_of
from detectors.training.precision import Precision, exact, name_of
from pipeline.models.device import Compute
from pipeline.settings import Settings

IMAGES = 32
"""Validation images that are compared, normals and synthetics as even as there are."""
DEVIATIONS = 0.25
"""Largest difference of a score that goes without a warning, in deviations of the fp32 scores."""
RANKS = 0.98
"""Smallest rank correlation that goes without a warning."""


class Parity(Settings):
    """Image scores in `precision` against fp32.

    `difference` is the largest one divided by the standard deviation of the fp32 scores, `ranks`
    Spearman's correlation; both None when fewer than two images differ in score.
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
    """Score the images twice. In fp32 there is nothing to compare, and nothing is scored."""
    precision = name_of(compute)
    if precision == "fp32":
        count = sum(len(next(iter(batch.values()))) for batch in images)
        return Parity(precision=precision, images=count, difference=0.0, ranks=1.0)
    used_N, _ = scores_of(detector, images, compute)
    with exact():
        exact_N, _ = scores_of(detector, images, Compute(compute.device, torch.float32))
    return compared(exact_N, used_N, precision)


def compared(exact_N: np.ndarray, used_N: np.ndarray, precision: Precision) -> Parity:
    """The two numbers for two lists of scores of the same images."""
    if len(np.unique(exact_N)) < 2 or len(np.unique(used_N)) < 2:
        return Parity(precision=precision, images=len(exact_N))
    difference = np.abs(exact_N.astype(np.float64) - used_N).max() / exact_N.std(dtype=np.float64)
    ranks = spearmanr(exact_N, used_N).statistic
    return Parity(
        precision=precision, images=len(exact_N), difference=float(difference), ranks=float(ranks)
    )
