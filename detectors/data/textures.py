"""A folder of textures, such as DTD, read once for the Perlin noise of `detectors.data.perlin`."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError

# Textures kept in memory, spread evenly over the folder; 197 MB at 256 px.
MAX_TEXTURES = 1000
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def read_textures(folder: Path, size: int) -> Tensor:
    """(K, 3, size, size) uint8 RGB of the images in a folder and its subfolders, sorted by path.

    UserError when there is no image or one cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"{folder} contains no images; pass a folder of textures")
    # DTD sorts its files by category, so evenly spaced paths cover all categories.
    chosen = [
        paths[place]
        for place in np.linspace(0, len(paths) - 1, min(MAX_TEXTURES, len(paths))).astype(int)
    ]
    return torch.stack([_read(path, size) for path in chosen])


def _read(path: Path, size: int) -> Tensor:
    """(3, size, size) uint8 RGB."""
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
