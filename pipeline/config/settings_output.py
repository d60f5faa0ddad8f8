"""Settings that no stage reads: who is held out, how a version is stored, what may be used."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.settings import Seed, Settings


class SplitSettings(Settings):
    """How normals are parted where the source has no validation split of its own."""

    validation_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1, description="share of the normals held out for validation"
    )
    seed: Seed | None = Field(default=None, description="which ones; null = the manifest's seed")


class OutputSettings(Settings):
    """How a version is stored; changes bytes, never content."""

    profile: Literal["default", "portable", "fast"] = Field(
        default="default",
        description="default = small (lz4); portable = gzip only, reads without plugins; fast = "
        "nothing packed: some ten times larger, reads at the speed of memory",
    )
    shard_images: int = Field(
        default=64, ge=1, le=100_000, description="source images per HDF5 shard"
    )
    keep_rejects: bool = Field(default=True, description="show refused samples in the gallery")
    gallery: bool = Field(default=True, description="write gallery/index.html")
    audit: bool = Field(
        default=True,
        description="ask of every version whether traces of editing give its samples away, and how "
        "visible each kind is (docs/audit.md)",
    )


class LicencePolicy(Settings):
    """What may be used."""

    allow_noncommercial: bool = Field(
        default=True,
        description="false = refuse data and weights whose licence forbids commercial use",
    )
