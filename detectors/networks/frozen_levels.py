"""Features of a frozen trunk that no fit computes twice.

    features = FrozenLevels(trunk)
    middle_BChw, coarse_BChw = features(images_B3HW, keep=True)     # computed, and remembered
    other.share(features)                                           # of another fit

Cross-fitting fits a detector several times on most of the same images. Its frozen trunk gives the
same features each time, and on a CPU that is most of the work.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells.
"""

import torch
from torch import Tensor, nn

from detectors.networks.patch_memory import Pair
from detectors.networks.remembered import MOST_BYTES, Remembered
from pipeline.models.backbone import normalise
from pipeline.models.trunks import AnyTrunk


class FrozenLevels(nn.Module):
    """The trunk's levels of stride 8 and 16, float32 in every precision.

    `memory` remembers them until `most` bytes are used, then nothing more. It is no buffer:
    checkpoints do not contain it.
    """

    def __init__(self, trunk: AnyTrunk, most: int = MOST_BYTES) -> None:
        super().__init__()
        self.trunk = trunk.freeze()
        _, self.middle, self.coarse = trunk.channels
        self.memory = Remembered(most)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenLevels":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images_B3HW: Tensor, keep: bool = False) -> Pair:
        """The levels of uint8 images; with `keep` they are remembered."""
        # A loaded checkpoint has nothing to look up, and exporters see the trunk alone.
        if torch.compiler.is_exporting() or not (keep or self.memory.known):
            return self._computed(images_B3HW)
        keys = self.memory.keys(images_B3HW)
        if (found := self.memory.get(keys)) is not None:
            middle_BChw, coarse_BChw = found
            return middle_BChw, coarse_BChw
        levels = self._computed(images_B3HW)
        if keep:
            self.memory.add(keys, levels)
        return levels

    def share(self, other: "FrozenLevels") -> None:
        """Use and extend what the same trunk of another fit remembers."""
        self.memory = other.memory

    def _computed(self, images_B3HW: Tensor) -> Pair:
        # Distances under a narrow covariance amplify rounding.
        with torch.autocast(images_B3HW.device.type, enabled=False):
            _, middle_BChw, coarse_BChw = self.trunk(normalise(images_B3HW))
        return middle_BChw, coarse_BChw
