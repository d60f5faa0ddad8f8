"""What DeSTSeg and SemRec's local branch share: corrupting images, fusing levels."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from detectors.base import DetectorSettings
from detectors.data.perlin import Noise
from detectors.data.textures import read_textures
from detectors.networks.cosine import Fusion
from pipeline.errors import UserError


class DamageSettings(DetectorSettings):
    """What DeSTSeg and SemRec's local branch share: teacher, damage, how a map becomes a score."""

    teacher: Literal["resnet18", "bundled-teacher"] = Field(
        default="resnet18", description="entry of the weights registry that the frozen part reads"
    )
    noise: Noise = Field(
        default="perlin_self",
        description="what fills the damage: perlin_self = another picture of the batch, scrambled; "
        "perlin_dtd = a picture of `textures`, as published; perlin_gauss = Gauss noise",
    )
    textures: Path | None = Field(
        default=None, description="folder of textures for perlin_dtd, such as the DTD data set"
    )
    level_fusion: Fusion = Field(
        default="prod", description="how the three levels' distances become one map"
    )
    top_pixels: int = Field(
        default=100,
        ge=1,
        description="the image score is the mean of so many highest pixels, at 256 px",
    )


def noise_textures(
    noise: Noise, folder: Path | None, size: int, weights: Path | None
) -> Tensor | None:
    """The textures that the noise needs; none without weights: a checkpoint will be filled in."""
    if noise != "perlin_dtd" or weights is None:
        return None
    if folder is None:
        raise UserError("noise perlin_dtd needs a folder of textures: set `textures` to one")
    return read_textures(folder, size)
