"""A folder of textures, such as DTD, read once for the Perlin noise of `detectors.data.perlin`."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError

MOST = 1000
"""Textures that are kept, spread evenly over the folder; 197 MB at 256 px."""
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def read_textures(folder: Path, size: int) -> Tensor:
    """(K, 3, size, size) uint8 RGB of the pictures in a folder and below, in the order of names.

    UserError when there is no picture or one cannot be read.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise UserError(f"{folder} holds no pictures; name a folder of textures")
    chosen = [
        paths[place] for place in np.linspace(0, len(paths) - 1, min(MOST, len(paths))).astype(int)
    ]
    return torch.stack([_read(path, size) for path in chosen])


def _read(path: Path, size: int) -> Tensor:
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1)
