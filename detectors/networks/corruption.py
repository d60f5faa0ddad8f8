"""Settings that DeSTSeg and SemRec share: corruption, rotation, fusion of levels, image score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator
from torch import Tensor

from detectors.base import DetectorSettings
from detectors.data.perlin import Noise
from detectors.data.rotation import Rotations
from detectors.data.textures import read_textures
from detectors.networks.cosine import Fusion
from pipeline.errors import UserError

Level = Literal["fine", "middle", "coarse"]
LEVELS: tuple[Level, ...] = get_args(Level)


class CorruptionSettings(DetectorSettings):
    """Teacher, changes to the training images, and how a map becomes an image score."""

    teacher: Literal["resnet18", "efficientnet-lite0", "bundled-teacher"] = Field(
        default="resnet18", description="weights registry entry loaded into the frozen network"
    )
    noise: Literal["auto"] | Noise = Field(
        default="auto",
        description="what fills the corrupted regions: perlin_dtd = an image from `textures`, as "
        "published; perlin_self = another image of the batch, with shuffled blocks; perlin_gauss = "
        "Gaussian noise; auto = perlin_dtd when `textures` is set, otherwise perlin_self",
    )
    textures: Path | None = Field(
        default=None, description="folder of texture images for perlin_dtd, such as the DTD dataset"
    )
    # The groups of categories are those of DeSTSeg's released code.
    rotations: Rotations = Field(
        default="none",
        description="random rotations of the training images (edited image and mask alike), only "
        "for products whose orientation has no meaning: slight = by up to 5 degrees, full = by a "
        "multiple of 90 degrees and then by up to 5. Of MVTec AD, DeSTSeg's authors use full for "
        "bottle, carpet, grid, hazelnut, leather, screw and tile, slight for cable, wood and "
        "zipper, none for capsule, metal_nut, pill, toothbrush and transistor",
    )
    # Not in the papers.
    standardise: bool = Field(
        default=False,
        description="standardise every channel of the teacher over the training normals, so that "
        "no channel dominates the cosine distances",
    )
    map_levels: tuple[Level, ...] = Field(
        default=("fine", "middle", "coarse"),
        min_length=1,
        description="levels whose distance maps are combined, of strides 4, 8 and 16; training "
        "uses all",
    )
    # The product is DeST's fusion.
    level_fusion: Fusion = Field(
        default="prod", description="how the distance maps of the levels are combined"
    )
    # T = 100 at 256 px in DeSTSeg.
    top_pixels: int = Field(
        default=100,
        ge=1,
        description="the image score is the mean of this many highest pixels, counted at 256 px",
    )

    @field_validator("rotations", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        # Checkpoints of earlier versions hold a bool: multiples of 90 degrees or none.
        return {True: "full", False: "none"}[value] if isinstance(value, bool) else value

    @property
    def noise_used(self) -> Noise:
        """`noise` with `auto` resolved."""
        if self.noise != "auto":
            return self.noise
        return "perlin_self" if self.textures is None else "perlin_dtd"

    def mapped(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Those of the three levels' maps that `map_levels` names, finest first."""
        named = zip(LEVELS, maps, strict=True)
        return [map_Bhw for level, map_Bhw in named if level in self.map_levels]

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: what the paper has and these settings leave out or ignore."""
        if self.textures is not None and self.noise_used != "perlin_dtd":
            return (f"textures has no effect, as noise is {self.noise}",)
        if self.noise != "auto" or self.textures is not None:
            return ()
        return (
            "corrupted regions are filled from other training images, not from a set of textures "
            "as published: pass one (such as DTD) with --set textures=DIR, or --set "
            "noise=perlin_self if that is intended",
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
