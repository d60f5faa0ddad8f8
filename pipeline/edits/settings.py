"""Settings of the edits: which kinds, how many, how they are composited."""

from typing import Literal

from pydantic import Field

from pipeline.kinds import EditKind
from pipeline.settings import Settings


class EditSettings(Settings):
    """Which edits are made and how many."""

    preset: Literal["full", "paper"] = Field(
        default="full",
        description="full = the nine single kinds; paper = one random object is removed, as "
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
        description="what a filler may put in the place of a part, for `wrong_type`; needs "
        "`models.fill`; empty = an empty prompt",
    )
    ground_prompts: tuple[str, ...] = Field(
        default=(),
        description="what a filler may put around the product: a background control then keeps the "
        "foreground and paints everything else (*replace*); needs `models.fill`; empty = a piece "
        "of bare ground is filled anew",
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
        description="tries per sample, each with the next seed, until it passes",
    )
    dilation: int = Field(
        default=4, ge=0, le=64, description="px at 256: how far a removal reaches beyond the object"
    )
    feather: int = Field(
        default=3, ge=0, le=32, description="px at 256: soft edge of a pasted object"
    )
    match_noise: bool = Field(
        default=True, description="give filled regions the grain of their surroundings"
    )
