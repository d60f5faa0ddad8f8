"""Settings of the quality gate: the limits of its checks.

Descriptions become docs/manifest.md and the JSON Schema.
"""

from pydantic import Field

from pipeline.settings import Fraction, Settings


class GateSettings(Settings):
    """When a sample is accepted; every rejection is recorded with its reason (docs/gate.md).

    A limit of null is calibrated on untouched regions of the category's own normal images.
    """

    min_changed_fraction: Fraction = Field(
        default=0.30,
        description="share of the change mask that must differ visibly; half of it where an "
        "object is rotated or scaled at its place",
    )
    change_threshold: int = Field(
        default=8,
        ge=0,
        le=255,
        description="grey levels (of 255) above which a pixel differs visibly",
    )
    min_delta_e: float = Field(
        default=4.0, ge=0, le=100, description="mean CIELAB colour distance inside the change mask"
    )
    min_swap_delta_e: float = Field(
        default=4.0,
        ge=0,
        le=100,
        description="colour distance of exchanged, replaced or rotated objects, blurred; below "
        "it they look alike and nothing is wrong",
    )
    max_control_delta_e: float = Field(
        default=5.0, ge=0, le=100, description="the same for a control, which must look unchanged"
    )
    max_change_area: Fraction = Field(default=0.40, description="change mask, share of the image")
    max_foreground_share: Fraction = Field(
        default=0.5,
        description="edited objects, share of the foreground; above = the whole product",
    )
    max_border: Fraction = Field(
        default=0.10, description="share of the image's border pixels in the change mask"
    )
    max_left_behind: Fraction = Field(
        default=0.004,
        description="what touches the place of a removed object, differs from the background "
        "around and is no other part, as a share of that place: a leg, a stub",
    )
    max_seam_ratio: float = Field(
        default=2.0,
        gt=0,
        le=100,
        description="gradient that the edit added on the mask's outline, against just outside",
    )
    max_outline_ratio: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="gradient on the mask's outline against both sides of it, in the edited "
        "image alone; null = calibrated",
    )
    min_noise_ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="sensor noise of an inpainted region against its surroundings; null = "
        "calibrated",
    )
    max_noise_ratio: float | None = Field(
        default=None,
        ge=1,
        le=100,
        description="sensor noise of an inpainted region against its surroundings; null = "
        "calibrated",
    )
    max_clipped: Fraction | None = Field(
        default=None,
        description="share of the change mask that the edit made fully black or white; null = "
        "calibrated",
    )
    max_duplicate_iou: Fraction = Field(
        default=0.90, description="change masks of the same kind that overlap more are duplicates"
    )
    patches: bool | None = Field(
        default=None,
        description="also compare inpainted regions with patches of this category's normal images, "
        "using the bundled teacher; false = no network in the gate; null = yes, except for the "
        "preset paper, whose method has no such gate",
    )
    max_patch_distance: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="mean distance of an inpainted region to patches of normal images; null = "
        "calibrated",
    )
    min_image_distance: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="distance of the whole image to the nearest normal image, in distances between "
        "normal images; 0 = off, because it hardly separates edits from controls",
    )


def uses_patches(patches: bool | None, preset: str) -> bool:
    """Whether the gate uses its network, by `GateSettings.patches` and the preset of the edits."""
    return preset != "paper" if patches is None else patches
