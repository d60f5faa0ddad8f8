"""Features of a frozen network by the content of the image, so that no fit computes them twice.

    known = Remembered()
    keys = known.keys(images_B3HW)
    known.add(keys, levels)                        # until `most` bytes are used
    levels = known.get(keys)                       # of all these images, or None

Cross-fitting fits a detector several times on most of the same images, and a training shows every
image many times.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells of a level.
"""

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

# Those of an image of 256 px take 0.28 MB (strides 8 and 16) to 0.67 MB (and 4) with
# EfficientNet-Lite0 in float32.
MOST_BYTES = 1 << 30

Key = bytes


class Remembered:
    """Levels by key until no bytes are `free`, then nothing more; `known` holds them."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.free = most
        self.known: dict[Key, tuple[Tensor, ...]] = {}

    def keys(self, images_B3HW: Tensor) -> list[Key]:
        """One key per uint8 image."""
        return [blake2b(image.cpu().numpy().tobytes()).digest() for image in images_B3HW]

    def get(self, keys: Sequence[Key]) -> tuple[Tensor, ...] | None:
        """The levels (B, C, h, w) of all these images; None where one is not known."""
        found = [self.known[key] for key in keys if key in self.known]
        if len(found) < len(keys):
            return None
        # The memory order of the networks, so that what follows rounds as it would without this.
        return tuple(
            torch.stack(level).contiguous(memory_format=torch.channels_last)
            for level in zip(*found, strict=True)
        )

    def add(self, keys: Sequence[Key], levels: Sequence[Tensor]) -> None:
        """Remember what is new and fits."""
        for place, key in enumerate(keys):
            # A copy, as a view would keep the whole batch.
            own = tuple(level_BChw[place].clone() for level_BChw in levels)
            size = sum(level_Chw.nbytes for level_Chw in own)
            if key not in self.known and size <= self.free:
                self.known[key] = own
                self.free -= size
