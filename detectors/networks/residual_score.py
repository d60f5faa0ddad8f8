"""An image score of a reconstruction from all that it leaves over, not from the map's peaks alone.

    score = ResidualScore(channels=(40, 112), grids=(1, 2, 3))
    score.fit(residuals_of, normals)                    # residuals_of(images_B3HW): `Residuals`
    image_B = score(published_B, residuals)

A map keeps how large the residual of a cell is. Its direction says more: the same small difference
in every cell of a missing part, or a difference that no normal has. So residuals are treated as
PUAD treats features of a frozen network: the distance to the nearest residual of normals, cell by
cell, is a second score, and pooled residuals have a Mahalanobis distance. Synthetic anomalies weigh
these and the published score (`detectors.networks.weighted_parts`). Nothing of this is in the
papers of the detectors that use it.

Shapes: B batch; C channels; h, w cells; N normals; M samples; P parts: the published score, that of
the nearest residual, a distance per way to pool.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.patch_memory import Pair, PatchMemory
from detectors.networks.pooled_distance import PooledDistance
from detectors.networks.weighted_parts import WeightedParts

# A setting of the detectors that use it.
Grids = Annotated[
    tuple[Annotated[int, Field(ge=1, le=8)], ...],
    Field(
        description="regions per side over which residuals are pooled: how far these, and "
        "residuals of single cells, lie from those of normals counts beside the published score "
        "(ours), each as much as synthetic anomalies say; empty = the published score alone"
    ),
]
# Residuals of cells of normals in the memory; at stride 16 an image of 256 px has 256.
BANK = 2500
# As in `pooled_distance`; fewer, as reconstructing takes time.
MOST_IMAGES = 400


class Residuals(NamedTuple):
    """What is pooled, at strides 8 and 16, and what is compared cell by cell, at stride 16."""

    pooled: Pair
    cells_BChw: Tensor


class ResidualScore(nn.Module):
    """The memory of residuals of stride 16, the Gaussians, and the weights of all parts."""

    def __init__(self, channels: Sequence[int], grids: Sequence[int]) -> None:
        super().__init__()
        self.memory = PatchMemory((channels[1],), BANK)
        self.distances = PooledDistance(channels, grids, most_images=MOST_IMAGES)
        self.weighted = WeightedParts(2 + len(self.distances.ways))

    @torch.no_grad()
    def fit(self, residuals_of: Callable[[Tensor], Residuals], normals: Batches) -> None:
        """Fill the memory and estimate the Gaussians from uint8 images of normals."""
        images = [batch["image"] for batch in normals]
        cells: list[tuple[Tensor]] = []

        def pooled_of(images_B3HW: Tensor) -> Pair:
            residuals = residuals_of(images_B3HW)
            # The images as they are come first, then their other views.
            if len(cells) < len(images):
                cells.append((residuals.cells_BChw,))
            return residuals.pooled

        self.distances.fit(pooled_of, normals)
        self.memory.fill(cells, sum(map(len, images)))

    def parts(self, published_B: Tensor, residuals: Residuals) -> Tensor:
        """(B, P)."""
        nearest_B = self.memory(residuals.cells_BChw).amax((1, 2))
        scores_B2 = torch.stack((published_B.float(), nearest_B), 1)
        return torch.cat((scores_B2, self.distances(residuals.pooled)), 1)

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """See `WeightedParts.fuse`."""
        self.weighted.fuse(normals_NP, pairs_MP, labels_M, kinds_M)

    def combined(self, parts_BP: Tensor) -> Tensor:
        """Image scores (B,) of parts."""
        return self.weighted(parts_BP)

    def forward(self, published_B: Tensor, residuals: Residuals) -> Tensor:
        """Image scores (B,) from the published score and the residuals."""
        return self.weighted(self.parts(published_B, residuals))
