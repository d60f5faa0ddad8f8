"""One scale for deviations of different kinds: how far from good images, in their own spread.

    scores = Scales.of(offs_NR)(offs_BR)

Not by ranks among good images: beyond all of them every deviation would be equal, and how much that
is would depend on their number, so images that a fold has not seen would score lower than fresh
ones of the whole fit. With ranks, 18 % of good images raised an alarm where 5 % were promised.

Shapes: B images; N good images; R rules or kinds of rules.
"""

from dataclasses import dataclass

from torch import Tensor

# Smallest spread: a deviation that no good image has would otherwise outweigh all others.
LEAST = 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """Mean and standard deviation (R,) of good images, float64."""

    mean_R: Tensor
    deviation_R: Tensor

    @classmethod
    def of(cls, normals_NR: Tensor) -> "Scales":
        """From good images; values stay as they are without any."""
        normals_NR = normals_NR.double()
        if not len(normals_NR):
            return cls(normals_NR.new_zeros(1), normals_NR.new_ones(1))
        return cls(normals_NR.mean(0), normals_NR.std(0, correction=0).clamp(min=LEAST))

    def __call__(self, values_BR: Tensor) -> Tensor:
        """(B, R) float64."""
        return (values_BR.to(self.mean_R) - self.mean_R) / self.deviation_R


def rate_among(value: Tensor, normals_N: Tensor) -> float:
    """The share of good images with at least this value, as a conformal p-value.

    Counts the image itself, as one more (Vovk, Gammerman, Shafer, Algorithmic Learning in a Random
    World, 2005, section 2.2).
    """
    # In Python's numbers: a third in float32 is more than a third.
    return (1 + int((normals_N >= value).sum())) / (len(normals_N) + 1)
