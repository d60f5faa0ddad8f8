"""An image score of a reconstruction from all that it leaves over, not from the map's peaks alone.

    score = ResidualScore(channels=(40, 112), grids=(1, 2, 3))
    score.fit(residuals_of, normals)                    # residuals_of(images_B3HW): `Residuals`
    image_B = score(published_B, residuals)

A map keeps how large the residual of a cell is. Its direction says more: the same small difference
in every cell of a missing part, or a difference that no normal has. So residuals are treated as
PUAD treats features of a frozen network: the distance to the nearest residual of normals, cell by
cell, is a second map, and pooled residuals have a Mahalanobis distance. The published score is the
first of the maps; synthetic anomalies choose (`detectors.networks.two_scores`). Nothing of this is
in the papers of the detectors that use it.

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
from detectors.networks.two_scores import TwoScores

# A setting of the detectors that use it.
Grids = Annotated[
    tuple[Annotated[int, Field(ge=1, le=8)], ...],
    Field(
        description="regions per side over which residuals may be pooled, of which synthetic "
        "anomalies choose: how far these, and residuals of single cells, lie from those of normals "
        "is a second image score (ours), and the larger one counts; empty = the published score"
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
    """The memory of residuals of stride 16, and the score made of all parts."""

    def __init__(self, channels: Sequence[int], grids: Sequence[int]) -> None:
        super().__init__()
        self.memory = PatchMemory((channels[1],), BANK)
        # The published score alone, unless synthetic anomalies say clearly otherwise.
        self.scores = TwoScores(channels, grids, maps=2, usual=1.0, most_images=MOST_IMAGES)

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

        self.scores.fit(pooled_of, normals)
        self.memory.fill(cells, sum(map(len, images)))

    def parts(self, published_B: Tensor, residuals: Residuals) -> Tensor:
        """(B, P)."""
        return self.scores.parts(self._maps(published_B, residuals), residuals.pooled)

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor) -> None:
        """See `TwoScores.fuse`."""
        self.scores.fuse(normals_NP, pairs_MP, labels_M)

    def combined(self, parts_BP: Tensor) -> Tensor:
        """Image scores (B,) of parts."""
        return self.scores.combined(parts_BP)

    def forward(self, published_B: Tensor, residuals: Residuals) -> Tensor:
        """Image scores (B,) from the published score and the residuals."""
        return self.scores(self._maps(published_B, residuals), residuals.pooled)

    def _maps(self, published_B: Tensor, residuals: Residuals) -> Tensor:
        """The scores of both maps, (B, 2)."""
        nearest_B = self.memory(residuals.cells_BChw).amax((1, 2))
        return torch.stack((published_B.float(), nearest_B), 1)
