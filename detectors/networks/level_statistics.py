"""Mean and deviation of every channel of a frozen network's levels over the training normals.

    statistics = LevelStatistics(network.channels)
    statistics.measure(levels_of, normals)       # of uint8 images, before the first step
    standardised = statistics(network(normalise(images)))

Shapes: B batch; C channels of a level; L of all levels; h, w cells.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.teachers import Moments


class LevelStatistics(nn.Module):
    """`mean_L` and `deviation_L` hold the channels of all levels, one level after another."""

    mean_L: Tensor
    deviation_L: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = list(channels)
        # Buffers, so a checkpoint restores them.
        self.register_buffer("mean_L", torch.zeros(sum(channels)))
        self.register_buffer("deviation_L", torch.ones(sum(channels)))

    @torch.no_grad()
    def measure(self, levels_of: Callable[[Tensor], Iterable[Tensor]], normals: Batches) -> None:
        """Measure both on `normals`; `levels_of` is given uint8 images. A constant channel is
        shifted, but not scaled."""
        # One accumulator per level.
        moments = [Moments(channels) for channels in self.channels]
        for batch in normals:
            for of_level, level_BChw in zip(moments, levels_of(batch["image"]), strict=True):
                of_level.add(level_BChw)
        deviation_L = torch.cat([of_level.deviation_C for of_level in moments])
        self.mean_L.copy_(torch.cat([of_level.mean_C for of_level in moments]))
        self.deviation_L.copy_(torch.where(deviation_L > 1e-6, deviation_L, 1.0))

    def forward(self, levels: Iterable[Tensor]) -> tuple[Tensor, ...]:
        """Levels with zero mean and unit variance per channel, float32."""
        return tuple(
            (level_BChw.float() - mean_C[:, None, None]) / deviation_C[:, None, None]
            for level_BChw, mean_C, deviation_C in zip(
                levels,
                self.mean_L.split(self.channels),
                self.deviation_L.split(self.channels),
                strict=True,
            )
        )
