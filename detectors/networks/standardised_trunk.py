"""A frozen trunk whose channels are standardised over the training normals.

    teacher = StandardisedTrunk(trunk_of("efficientnet-lite0", path))
    teacher.measure(normals)                                  # before the first step
    fine, middle, coarse = teacher(normalise(images_B3HW))

Cosine distances of raw features are dominated by the channels with the largest mean, which all
cells share: a cell of another object differs little. Neither DeSTSeg nor SemRec does this.

Shapes: B batch; H, W image; 3 colour (RGB).
"""

from collections.abc import Callable

from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.level_statistics import LevelStatistics
from pipeline.models.backbone import Levels, normalise
from pipeline.models.trunks import AnyTrunk


class StandardisedTrunk(nn.Module):
    """Zero mean and unit variance per channel; levels are float32 and can be negative."""

    def __init__(self, trunk: AnyTrunk) -> None:
        super().__init__()
        self.trunk = trunk.freeze()
        self.channels = trunk.channels
        self.statistics = LevelStatistics(trunk.channels)
        self.eval()

    def measure(
        self, normals: Batches, levels_of: Callable[[Tensor], Levels] | None = None
    ) -> None:
        """Measure the channels on `normals`; `levels_of` gives the trunk's levels of uint8 images
        where they are known already."""
        self.statistics.measure(
            levels_of or (lambda images: self.trunk(normalise(images))), normals
        )

    def forward(self, images_B3HW: Tensor) -> Levels:
        return self.standardised(self.trunk(images_B3HW))

    def standardised(self, levels: Levels) -> Levels:
        """Levels of the trunk on the scale of the normals."""
        fine, middle, coarse = self.statistics(levels)
        return fine, middle, coarse

    def train(self, mode: bool = True) -> "StandardisedTrunk":
        """Stays in evaluation mode."""
        return super().train(False)
