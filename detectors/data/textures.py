"""A folder of textures, such as DTD, read once for the Perlin noise of `detectors.data.perlin`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import ImageError, UserError
from pipeline.imaging.decode import load_image
from pipeline.imaging.walk import only_links, walk_images
from pipeline.utils.names import text_of

# Textures kept in memory, spread evenly over the folder; 197 MB at 256 px.
MAX_TEXTURES = 1000


def read_textures(folder: Path, size: int) -> Tensor:
    """(K, 3, size, size) uint8 RGB of the images in a folder and its subfolders, in natural order.

    UserError when there is no image or one cannot be read.
    """
    found = walk_images(folder) if folder.is_dir() else None
    if found is None or not found.names:
        why = only_links(found.left_out) if found else ""
        raise UserError(
            f"{text_of(folder)} contains no images; {why or 'pass a folder of textures'}"
        )
    paths = [folder / name for name in found.names]
    # DTD sorts its files by category, so evenly spaced paths cover all categories.
    chosen = [
        paths[place]
        for place in np.linspace(0, len(paths) - 1, min(MAX_TEXTURES, len(paths))).astype(int)
    ]
    return torch.stack([_read(path, size) for path in chosen])


def _read(path: Path, size: int) -> Tensor:
    """(3, size, size) uint8 RGB."""
    try:
        pixels = load_image(path, (size, size))
    except ImageError as error:
        raise UserError(f"{error}; every texture must be readable") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
