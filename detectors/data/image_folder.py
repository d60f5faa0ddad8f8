"""Random images from a folder: the images of EfficientAD's ImageNet penalty.

    images = FolderImages(Path("imagenet/train"), size=256)
    images_B3HW = images.draw(1, device)      # uint8

Any folder of images works, at any depth; the paper uses ImageNet's training set. Each image is
resized to twice the size, cropped to its centre, and converted to grey with probability 0.3
(Batzner, Heckler, König, WACV 2024, Algorithm 1).
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import load_image
from pipeline.imaging.walk import only_links, walk_images
from pipeline.utils.names import text_of

# Probability that an image is converted to grey.
GREY_SHARE = 0.3
# Unreadable files in a row before the folder is rejected.
_TRIES = 20


class FolderImages:
    """Draws images with torch's global generator on the CPU. The folder is listed at first use.

    UserError when the folder is missing or contains no image. An image that cannot be read is
    replaced with another draw.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size

    @cached_property
    def paths(self) -> list[Path]:
        """All images in natural order."""
        found = walk_images(self.folder) if self.folder.is_dir() else None
        if found is None or not found.names:
            why = only_links(found.left_out) if found else ""
            raise UserError(
                f"penalty_folder: expected images under {text_of(self.folder)}, "
                f"found {why or 'none'}; pass a folder of images, or use --set penalty=none"
            )
        return [self.folder / name for name in found.names]

    def draw(self, count: int, device: torch.device) -> Tensor:
        """(B, 3, size, size) uint8 on the device, in channels_last memory."""
        images = torch.from_numpy(np.stack([self._one() for _ in range(count)]))
        return images.permute(0, 3, 1, 2).to(device, non_blocking=True)

    def _one(self) -> np.ndarray:
        """(size, size, 3) uint8, cropped and in three of ten cases grey."""
        margin = self.size // 2
        for _ in range(_TRIES):
            path = self.paths[int(torch.randint(len(self.paths), ()))]
            try:
                whole_HW3 = load_image(path, (2 * self.size, 2 * self.size))
            except ImageError:
                continue
            image_HW3 = whole_HW3[margin : margin + self.size, margin : margin + self.size]
            if float(torch.rand(())) < GREY_SHARE:
                # ITU-R BT.601 luma, as Pillow converts to grey.
                luma_HW = image_HW3 @ np.array([0.299, 0.587, 0.114])
                image_HW3 = np.repeat(luma_HW.round().astype(np.uint8)[..., None], 3, -1)
            return image_HW3
        raise UserError(
            f"penalty_folder: {_TRIES} images in a row under {self.folder} cannot be read; "
            "check the folder"
        )
