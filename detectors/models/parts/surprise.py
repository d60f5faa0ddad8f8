"""How surprising a deviation is: its share among good images, and how far it lies beyond them all.

    surprises = Tails.of(offs_NR)(offs_BR)          # by rule
    scores = Scales.of(normals_NP)(surprises_BP)    # of kinds of rules

The surprise of a value is -ln((1 + number of good images at or above it) / (N + 1)), in nats, the
logarithm of a conformal p-value (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World,
2005, section 2.2). All values beyond every good image would be equal; there the distance to the
highest one is added, in units of the deviation.

Shapes: B images; N good images; R rules or kinds of rules.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# Smallest deviation, in nats: surprises that no good image has would otherwise outweigh all others.
LEAST = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Tails:
    """Deviations (N, R) of good images, ascending per column; float64."""

    sorted_NR: Tensor

    @classmethod
    def of(cls, offs_NR: Tensor) -> "Tails":
        """From deviations of good images in any order."""
        return cls(offs_NR.double().sort(0).values)

    def __call__(self, offs_BR: Tensor) -> Tensor:
        """Surprises (B, R) in nats, float64, never negative; `offs` itself without good images."""
        offs_BR = offs_BR.to(self.sorted_NR)
        count = len(self.sorted_NR)
        if not count:
            return offs_BR
        # Good images below each value; the others are at or above it.
        columns_RN, values_RB = self.sorted_NR.T.contiguous(), offs_BR.T.contiguous()
        above_BR = count - torch.searchsorted(columns_RN, values_RB).T
        rate_BR = (1 + above_BR) / (count + 1)
        return -rate_BR.log() + (offs_BR - self.sorted_NR[-1]).clamp(min=0)


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Brings surprises of several kinds to one scale: their mean and deviation in good images.

    Not by ranks again: a rank among so few images would hang on single ones, and the held-out
    images that set the scale would score lower than fresh ones. `mean_P` and `deviation_P` float64.
    """

    mean_P: Tensor
    deviation_P: Tensor

    @classmethod
    def of(cls, normals_NP: Tensor) -> "Scales":
        """From good images that the fit has not seen; the plain surprises without any."""
        normals_NP = normals_NP.double()
        if not len(normals_NP):
            return cls(normals_NP.new_zeros(normals_NP.shape[1]), normals_NP.new_ones(1))
        return cls(normals_NP.mean(0), normals_NP.std(0, correction=0).clamp(min=LEAST))

    def __call__(self, surprises_BP: Tensor) -> Tensor:
        """(B, P) float64."""
        return (surprises_BP.to(self.mean_P) - self.mean_P) / self.deviation_P


def rate_among(value: Tensor, normals_N: Tensor) -> float:
    """The share of good images whose surprise is at least `value`, as a conformal p-value."""
    return float((1 + (normals_N >= value).sum()) / (len(normals_N) + 1))
