"""Settings of the quality gate: its limits."""

from pydantic import Field

from pipeline.settings import Fraction, Settings


class GateSettings(Settings):
    """When a sample is good enough; every refusal is recorded with its reason (docs/gate.md).

    A limit of null is calibrated: it comes from untouched regions of the category's own normals.
    """

    min_changed_fraction: Fraction = Field(
        default=0.30,
        description="share of the change mask that must differ visibly; half of it where a part "
        "is turned or scaled in its place",
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
        description="colour distance of exchanged, replaced or turned objects, blurred; below "
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
        "picture alone; null = calibrated",
    )
    min_noise_ratio: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="grain of painted ground, against around it; null = calibrated",
    )
    max_noise_ratio: float | None = Field(
        default=None,
        ge=1,
        le=100,
        description="grain of painted ground, against around it; null = calibrated",
    )
    max_clipped: Fraction | None = Field(
        default=None,
        description="share of the change mask that the edit made wholly black or white; null = "
        "calibrated",
    )
    max_duplicate_iou: Fraction = Field(
        default=0.90, description="change masks of the same kind that overlap more are duplicates"
    )
    patches: bool | None = Field(
        default=None,
        description="also ask the bundled teacher whether painted ground looks like this "
        "category's good products; false = no network in the gate; null = yes, except for the "
        "preset paper, whose method has no such gate",
    )
    max_patch_distance: float | None = Field(
        default=None,
        gt=0,
        le=100,
        description="mean distance of painted ground to patches of normals; null = calibrated",
    )
    min_image_distance: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="distance of the whole picture to the nearest normal, in distances between "
        "normals; 0 = off, because it tells edits from controls hardly at all",
    )


def asks_patches(asked: bool | None, preset: str) -> bool:
    """Whether the gate's network looks at painted ground, by `GateSettings.patches` and preset."""
    return preset != "paper" if asked is None else asked
