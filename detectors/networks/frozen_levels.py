"""Features of a frozen trunk that no fit computes twice.

    features = FrozenLevels(trunk)
    middle_BChw, coarse_BChw = features(images_B3HW, keep=True)     # computed, and remembered
    other.share(features)                                           # of another fit

Cross-fitting fits a detector several times on most of the same images. Its frozen trunk gives the
same features each time, and on a CPU that is most of the work.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells.
"""

from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor, nn

from detectors.networks.patch_memory import Pair
from pipeline.models.backbone import normalise
from pipeline.models.trunks import AnyTrunk

# Memory for features; those of an image of 256 px take 0.28 MB with EfficientNet-Lite0.
MOST_BYTES = 1 << 30


@dataclass(eq=False)
class Memory:
    """Levels by the content of the image, until no bytes are `free`; one for all fits."""

    free: int
    known: dict[bytes, Pair] = field(default_factory=dict)


class FrozenLevels(nn.Module):
    """The trunk's levels of stride 8 and 16, float32 in every precision.

    `memory` remembers them until `most` bytes are used, then nothing more. It is no buffer:
    checkpoints do not contain it.
    """

    def __init__(self, trunk: AnyTrunk, most: int = MOST_BYTES) -> None:
        super().__init__()
        self.trunk = trunk.freeze()
        _, self.middle, self.coarse = trunk.channels
        self.memory = Memory(most)
        self.eval()

    def train(self, mode: bool = True) -> "FrozenLevels":
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, images_B3HW: Tensor, keep: bool = False) -> Pair:
        """The levels of uint8 images; with `keep` they are remembered."""
        # A loaded checkpoint has nothing to look up, and exporters see the trunk alone.
        if torch.compiler.is_exporting() or not (keep or self.memory.known):
            return self._computed(images_B3HW)
        keys = [blake2b(image.cpu().numpy().tobytes()).digest() for image in images_B3HW]
        if all(key in self.memory.known for key in keys):
            pairs = [self.memory.known[key] for key in keys]
            return torch.stack([one for one, _ in pairs]), torch.stack([one for _, one in pairs])
        middle_BChw, coarse_BChw = self._computed(images_B3HW)
        for place, key in enumerate(keys if keep else ()):
            # A copy, as a view would keep the whole batch.
            pair = middle_BChw[place].clone(), coarse_BChw[place].clone()
            size = pair[0].nbytes + pair[1].nbytes
            if key not in self.memory.known and size <= self.memory.free:
                self.memory.known[key] = pair
                self.memory.free -= size
        return middle_BChw, coarse_BChw

    def share(self, other: "FrozenLevels") -> None:
        """Use and extend what the same trunk of another fit remembers."""
        self.memory = other.memory

    def _computed(self, images_B3HW: Tensor) -> Pair:
        # Distances under a narrow covariance amplify rounding.
        with torch.autocast(images_B3HW.device.type, enabled=False):
            _, middle_BChw, coarse_BChw = self.trunk(normalise(images_B3HW))
        return middle_BChw, coarse_BChw
