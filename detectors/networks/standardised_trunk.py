"""A frozen trunk whose channels are standardised over the training normals.

    teacher = StandardisedTrunk(trunk_of("efficientnet-lite0", path))
    teacher.measure(normals)                                  # before the first step
    fine, middle, coarse = teacher(normalise(images_B3HW))

Cosine distances of raw features are dominated by the channels with the largest mean, which all
cells share: a cell of another object differs little. Neither DeSTSeg nor SemRec does this.

Shapes: B batch; H, W image; 3 colour (RGB); C channels of a level; L of all levels; h, w cells.
"""

import torch
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.teachers import Moments
from pipeline.models.backbone import Levels, normalise
from pipeline.models.trunks import AnyTrunk


class StandardisedTrunk(nn.Module):
    """Zero mean and unit variance per channel; levels are float32 and can be negative.

    `mean_L` and `deviation_L` hold the channels of the three levels, one level after another.
    """

    mean_L: Tensor
    deviation_L: Tensor

    def __init__(self, trunk: AnyTrunk) -> None:
        super().__init__()
        self.trunk = trunk.freeze()
        self.channels = trunk.channels
        # Buffers, so a checkpoint restores them.
        self.register_buffer("mean_L", torch.zeros(sum(self.channels)))
        self.register_buffer("deviation_L", torch.ones(sum(self.channels)))
        self.eval()

    @torch.no_grad()
    def measure(self, normals: Batches) -> None:
        """Measure both on `normals`. A constant channel is shifted, but not scaled."""
        moments = [Moments(channels) for channels in self.channels]
        for batch in normals:
            levels = self.trunk(normalise(batch["image"]))
            for of_level, level_BChw in zip(moments, levels, strict=True):
                of_level.add(level_BChw)
        deviation_L = torch.cat([of_level.deviation_C for of_level in moments])
        self.mean_L.copy_(torch.cat([of_level.mean_C for of_level in moments]))
        self.deviation_L.copy_(torch.where(deviation_L > 1e-6, deviation_L, 1.0))

    def forward(self, images_B3HW: Tensor) -> Levels:
        fine, middle, coarse = (
            (level_BChw.float() - mean_C[:, None, None]) / deviation_C[:, None, None]
            for level_BChw, mean_C, deviation_C in zip(
                self.trunk(images_B3HW),
                self.mean_L.split(self.channels),
                self.deviation_L.split(self.channels),
                strict=True,
            )
        )
        return fine, middle, coarse

    def train(self, mode: bool = True) -> "StandardisedTrunk":
        """Stays in evaluation mode."""
        return super().train(False)
