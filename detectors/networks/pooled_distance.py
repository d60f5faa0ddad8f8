"""Mahalanobis distances of an image's pooled features from those of the normals, in several ways.

    pooled = PooledDistance(channels=(40, 112), grids=(1, 2))
    pooled.fit(levels_of, normals)                 # levels_of(images_B3HW): stride 8 and 16
    distances_BJ = pooled(levels)                  # one column per entry of `pooled.ways`

The mean over the cells of a level says how much of everything is in the image, so a surplus or a
missing part shifts it even where every patch looks normal (PUAD, ICIP 2024, calls these anomalies
unpicturable). Which level carries that depends on the product. So does whether the places of the
parts matter: with a grid of regions each region has a Gaussian of its own, and the largest distance
counts, as a part in the wrong compartment is wrong in that compartment alone. And whether it may
lie in any direction: then every normal counts in eight views, which few normals need most. All ways
are fitted, and synthetic anomalies choose.

Shapes: B batch; N images; J ways; R regions; D dimensions of a region; C channels; h, w cells.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.mahalanobis import Covariance, Gaussian
from detectors.networks.patch_memory import Pair

# Images, counting every view, whose features are computed: more normals need fewer views, and of
# more normals than that each counts as it is.
MOST_IMAGES = 1600
# The levels that are pooled, as places in a pair: stride 8, stride 16, both.
_LEVELS = ((0,), (1,), (0, 1))


class Way(NamedTuple):
    """One way to pool: places of the levels, regions per side, views of each normal."""

    levels: tuple[int, ...]
    grid: int
    views: int


class PooledDistance(nn.Module):
    """A Gaussian for each way to pool; the simplest ways come first."""

    def __init__(
        self,
        channels: Sequence[int],
        grids: Sequence[int],
        views: Sequence[int] = (1, 8),
        covariance: Covariance = "ledoit_wolf",
        most_images: int = MOST_IMAGES,
    ) -> None:
        super().__init__()
        self.most_images = most_images
        self.covariance: Covariance = covariance
        whole = [Way(levels, 1, count) for count in views for levels in _LEVELS if 1 in grids]
        # Turned images move parts into other regions, and deep features suffice to tell the parts.
        self.ways = (*whole, *(Way(_LEVELS[1], grid, 1) for grid in grids if grid > 1))
        if not self.ways:
            raise ValueError(
                f"expected at least one grid, got {tuple(grids)}; grids=(1,) pools whole images"
            )
        self.gaussians = nn.ModuleList(
            nn.ModuleList(
                Gaussian(sum(channels[level] for level in way.levels)) for _ in range(way.grid**2)
            )
            for way in self.ways
        )

    @torch.no_grad()
    def fit(self, levels_of: Callable[[Tensor], Pair], normals: Batches) -> None:
        """Estimate mean and covariance of every way from uint8 images; UserError without any."""
        images = [batch["image"] for batch in normals]
        count = sum(map(len, images))
        most = max(way.views for way in self.ways)
        affordable = max(1, min(most, self.most_images // max(count, 1)))
        # Ways that differ in their views alone share their features.
        one_each = {(way.levels, way.grid): way for way in self.ways}
        # The features of every view: (images, R, D) per levels and grid.
        seen: list[dict[tuple[tuple[int, ...], int], Tensor]] = []
        for view in range(affordable if images else 0):
            # Pooled batch by batch: the levels of thousands of images would fill the memory.
            batches: list[dict[tuple[tuple[int, ...], int], Tensor]] = []
            for batch_B3HW in images:
                levels = levels_of(turned(batch_B3HW, view))
                batches.append({key: pooled(levels, way) for key, way in one_each.items()})
            seen.append({key: torch.cat([one[key] for one in batches]) for key in one_each})
        for way, gaussians in zip(self.ways, self.gaussians, strict=True):
            assert isinstance(gaussians, nn.ModuleList)
            key = way.levels, way.grid
            features = [of_view[key] for of_view in seen[: way.views]]
            for region, gaussian in enumerate(gaussians):
                assert isinstance(gaussian, Gaussian)
                # Without normals the Gaussian raises its own error on an empty tensor.
                of_region = [part_BRD[:, region] for part_BRD in features]
                features_ND = torch.cat(of_region) if of_region else gaussian.mean_D[None][:0]
                gaussian.fit(features_ND, self.covariance)

    def forward(self, levels: Pair) -> Tensor:
        """Distances (B, J) of the images that these levels belong to, float32."""
        return torch.stack([self.one(levels, place) for place in range(len(self.ways))], 1)

    def one(self, levels: Pair, place: int) -> Tensor:
        """Distances (B,) in one way: of the whole image, or of its most distant region."""
        gaussians = self.gaussians[place]
        assert isinstance(gaussians, nn.ModuleList)
        features_BRD = pooled(levels, self.ways[place])
        return torch.stack(
            [gaussian(features_BRD[:, region]) for region, gaussian in enumerate(gaussians)], 1
        ).amax(1)


def pooled(levels: Pair, way: Way) -> Tensor:
    """Means over the cells of every region, (B, R, D) float32."""
    parts = [
        F.adaptive_avg_pool2d(levels[place].float(), way.grid).flatten(2) for place in way.levels
    ]
    return torch.cat(parts, 1).transpose(1, 2)


def turned(images_B3HW: Tensor, view: int) -> Tensor:
    """One of the eight views of square images: a multiple of a quarter turn, mirrored from 4 on."""
    images = images_B3HW.flip(3) if view >= 4 else images_B3HW
    return images.rot90(view % 4, (2, 3))
