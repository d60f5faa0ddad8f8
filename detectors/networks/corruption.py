"""Settings that DeSTSeg and SemRec share: image corruption, fusion of levels, image score."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.base import DetectorSettings
from detectors.data.perlin import Noise
from detectors.data.textures import read_textures
from detectors.networks.cosine import Fusion
from pipeline.errors import UserError


class CorruptionSettings(DetectorSettings):
    """Teacher, corruption with Perlin noise, and how a map becomes an image score."""

    teacher: Literal["resnet18", "bundled-teacher"] = Field(
        default="resnet18", description="weights registry entry loaded into the frozen network"
    )
    noise: Noise = Field(
        default="perlin_self",
        description="what fills the corrupted regions: perlin_self = another image of the batch, "
        "with shuffled blocks; perlin_dtd = an image from `textures`, as published; "
        "perlin_gauss = Gaussian noise",
    )
    textures: Path | None = Field(
        default=None, description="folder of texture images for perlin_dtd, such as the DTD dataset"
    )
    # The product is DeST's fusion.
    level_fusion: Fusion = Field(
        default="prod", description="how the distance maps of the three levels are combined"
    )
    # T = 100 at 256 px in DeSTSeg.
    top_pixels: int = Field(
        default=100,
        ge=1,
        description="the image score is the mean of this many highest pixels, counted at 256 px",
    )


def noise_textures(
    noise: Noise, folder: Path | None, size: int, weights: Path | None
) -> Tensor | None:
    """The textures (K, 3, size, size) that the noise needs, or None when it needs none."""
    # Without weights the detector is filled from a checkpoint, which needs no training data.
    if noise != "perlin_dtd" or weights is None:
        return None
    if folder is None:
        raise UserError("noise perlin_dtd needs a folder of textures: set `textures` to its path")
    return read_textures(folder, size)
