"""Settings of edits: which kinds are generated, how many, and how they are composited.

Descriptions become docs/manifest.md and the JSON Schema.
"""

from typing import Literal

from pydantic import Field

from pipeline.kinds import EditKind
from pipeline.settings import Settings


class EditSettings(Settings):
    """Which edits are made and how many."""

    preset: Literal["full", "paper"] = Field(
        default="full",
        description="full = all anomaly kinds in turn; paper = one random object is removed, as "
        "published (or filled by a prompt, three times in ten, where `models.fill` is set)",
    )
    kinds: tuple[EditKind, ...] | None = Field(
        default=None,
        min_length=1,
        description="only these kinds; null = those of the preset; `combined` (two edits in one "
        "sample) only when it is named here",
    )
    prompts: tuple[str, ...] = Field(
        default=(),
        description="prompts for what a filler puts in an object's place, for `wrong_type`; needs "
        "`models.fill`; empty = an empty prompt",
    )
    ground_prompts: tuple[str, ...] = Field(
        default=(),
        description="prompts for what a filler puts around the product: a background control then "
        "keeps the foreground and replaces everything else (*replace*); needs `models.fill`; "
        "empty = a region of bare background is inpainted",
    )
    per_image: int = Field(
        default=6, ge=0, le=1000, description="anomalous samples wanted per image"
    )
    controls_per_image: int = Field(
        default=1,
        ge=0,
        le=100,
        description="samples per image whose edit changes nothing, labelled normal",
    )
    attempts: int = Field(
        default=12,
        ge=1,
        le=1000,
        description="attempts per sample, each with the next seed, until one is accepted",
    )
    dilation: int = Field(
        default=4, ge=0, le=64, description="px at 256: how far a removal reaches beyond the object"
    )
    feather: int = Field(
        default=3, ge=0, le=32, description="px at 256: soft edge of a pasted object"
    )
    match_noise: bool = Field(
        default=True,
        description="add sensor noise to inpainted regions until they match their surroundings",
    )

    @property
    def uses_part_kinds(self) -> bool:
        """The published method (preset `paper`) knows no part kinds: it removes any object."""
        return self.preset != "paper"
