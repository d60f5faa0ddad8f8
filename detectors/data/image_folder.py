"""Random pictures of a folder: what EfficientAD's penalty takes from ImageNet.

    pictures = FolderPictures(Path("imagenet/train"), size=256)
    images_B3HW = pictures.draw(1, device)      # uint8

Any folder of pictures will do, at any depth; the paper's is ImageNet's training set. Each picture
is resized to twice the size, the centre half is kept, and three in ten lose their colour.
"""

import os
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import is_image_name, load_image

GREY_SHARE = 0.3
_TRIES = 20


class FolderPictures:
    """Draws pictures with torch's global generator on the CPU. The folder is listed at first use.

    UserError when it is absent or holds no picture. A picture that cannot be read is passed over
    for another.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size

    @cached_property
    def paths(self) -> list[Path]:
        """All pictures in a fixed order."""
        found = [
            Path(place) / name
            for place, _, names in os.walk(self.folder)
            for name in names
            if is_image_name(Path(name))
        ]
        if not found:
            raise UserError(
                f"penalty_folder: expected pictures under {self.folder}, found none; "
                "name a folder of pictures, or use --set penalty=none"
            )
        return sorted(found)

    def draw(self, count: int, device: torch.device) -> Tensor:
        """(B, 3, size, size) uint8 on the device, in channels_last memory."""
        images = torch.from_numpy(np.stack([self._one() for _ in range(count)]))
        return images.permute(0, 3, 1, 2).to(device, non_blocking=True)

    def _one(self) -> np.ndarray:
        margin = self.size // 2
        for _ in range(_TRIES):
            path = self.paths[int(torch.randint(len(self.paths), ()))]
            try:
                whole_HW3 = load_image(path, (2 * self.size, 2 * self.size))
            except ImageError:
                continue
            image_HW3 = whole_HW3[margin : margin + self.size, margin : margin + self.size]
            if float(torch.rand(())) < GREY_SHARE:
                luma_HW = image_HW3 @ np.array([0.299, 0.587, 0.114])
                image_HW3 = np.repeat(luma_HW.round().astype(np.uint8)[..., None], 3, -1)
            return image_HW3
        raise UserError(
            f"penalty_folder: {_TRIES} pictures in a row under {self.folder} cannot be read; "
            "check the folder"
        )
