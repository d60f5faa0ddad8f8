"""What each stage may be told, as plain frozen models; a stage imports only its own class.

Every field carries its unit and its reason in `description`: docs/manifest.md and the JSON Schema
are generated from them. Pixel lengths are given at 256 px and scaled with the image (`pixels_at`).
Defaults are the numbers of the source method where it has any, else measured here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipeline.records import KINDS

EDIT_KINDS = tuple(kind for kind in KINDS if not kind.startswith("control_"))
"""The kinds that change the meaning; controls are asked for by `controls_per_image`."""

REFERENCE_PX = 256
"""The image height at which pixel lengths in the settings are stated."""

SIZE_STEP, SIZE_MIN, SIZE_MAX = 8, 64, 2048

EditKind = Literal["missing", "extra", "misplaced", "swapped"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Settings(BaseModel):
    """Frozen, closed to unknown keys, no NaN."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


def pixels_at(length_256: float, size_HW: tuple[int, int]) -> float:
    """A pixel length stated at 256 px, scaled to an image by its longer side."""
    return length_256 * max(size_HW) / REFERENCE_PX


def as_size(value: Any) -> tuple[int, int]:
    """256 -> (256, 256); [H, W] -> (H, W); each a multiple of 8 between 64 and 2048."""
    sides = [value, value] if isinstance(value, int) else value
    whole = isinstance(sides, list | tuple) and len(sides) == 2
    if not whole or any(isinstance(side, bool) or not isinstance(side, int) for side in sides):
        raise ValueError("expected one whole number (square) or [height, width]")
    for side in sides:
        if side % SIZE_STEP or not SIZE_MIN <= side <= SIZE_MAX:
            raise ValueError(
                f"each side must be a multiple of {SIZE_STEP} from {SIZE_MIN} to {SIZE_MAX}"
            )
    return (sides[0], sides[1])


_SIDE_SCHEMA = {
    "type": "integer", "minimum": SIZE_MIN, "maximum": SIZE_MAX, "multipleOf": SIZE_STEP,
}  # fmt: skip
ImageSize = Annotated[
    tuple[int, int],
    BeforeValidator(as_size),
    WithJsonSchema(
        {
            "anyOf": [
                _SIDE_SCHEMA,
                {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2},
            ]
        }
    ),
]


class BackendSettings(Settings):
    """What the three model stages share."""

    weights: str | None = Field(
        default=None,
        description="a weights file of your own; relative to the manifest; null = look it up",
    )


class ForegroundBackend(BackendSettings):
    """U²-Net: where the parts are."""

    backend: Literal["auto", "u2net", "u2netp", "bundled"] = Field(
        default="auto",
        description="auto = the best one whose weights are found, the bundled one at last",
    )


class ProposalsBackend(BackendSettings):
    """SAM: which objects are there."""

    backend: Literal["auto", "vit_b", "vit_l", "vit_h", "small"] = Field(
        default="auto",
        description="auto = the largest official one found, else the bundled small SAM",
    )


class InpaintBackend(BackendSettings):
    """What fills a hole."""

    backend: Literal["auto", "lama", "lama_cleaner", "small_lama", "telea", "ns"] = Field(
        default="auto", description="auto = official LaMa when found, else bundled small LaMa"
    )


class ModelSettings(Settings):
    """The three models and where they run."""

    foreground: ForegroundBackend = Field(default=ForegroundBackend(), description="U²-Net")
    proposals: ProposalsBackend = Field(default=ProposalsBackend(), description="SAM")
    inpaint: InpaintBackend = Field(default=InpaintBackend(), description="LaMa or OpenCV")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda when there is one; cuda without one is an error"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 where the device runs it faster, else fp32"
    )


class ProposalSettings(Settings):
    """How objects are looked for and which candidates stay."""

    points: int = Field(
        default=64, ge=1, le=1024, description="foreground points that SAM is asked about"
    )
    min_area: Fraction = Field(default=0.002, description="smallest object, share of the image")
    max_area: Fraction = Field(default=0.20, description="largest object, share of the image")
    min_foreground_overlap: Fraction = Field(
        default=0.8, description="share of the object that must lie on foreground"
    )
    max_foreground_share: Fraction = Field(
        default=0.5,
        description="share of the foreground that one object may be; above = the whole product",
    )
    max_border: Fraction = Field(
        default=0.10, description="share of the image's border pixels that an object may touch"
    )
    min_component: Fraction | None = Field(
        default=None,
        description="share of the object's area that its largest connected piece must hold, the "
        "only one that is kept; null = the backend's default",
    )
    max_iou: Fraction = Field(
        default=0.85, description="above this overlap two objects are the same one"
    )
    min_predicted_iou: Fraction | None = Field(
        default=None,
        description="lowest mask quality by SAM's own estimate; null = the backend's default",
    )
    min_stability: Fraction | None = Field(
        default=None,
        description="lowest stability of the mask's outline; null = the backend's default",
    )
    max_proposals: int = Field(
        default=32, ge=1, le=256, description="objects kept per image, best first"
    )


class EditSettings(Settings):
    """Which edits are made and how many."""

    preset: Literal["full", "paper"] = Field(
        default="full",
        description="full = all kinds; paper = remove one random object, as published",
    )
    kinds: tuple[EditKind, ...] | None = Field(
        default=None, min_length=1, description="only these kinds; null = those of the preset"
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


class GateSettings(Settings):
    """When a sample is good enough; every refusal is recorded with its reason."""

    min_changed_fraction: Fraction = Field(
        default=0.30, description="share of the change mask that must differ visibly"
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
        description="colour distance of exchanged objects, blurred; below "
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
        default=3.0,
        gt=0,
        le=100,
        description="gradient on the mask's outline, against just outside",
    )
    min_noise_ratio: float = Field(
        default=0.4, ge=0, le=1, description="grain inside the change mask, against around it"
    )
    max_noise_ratio: float = Field(
        default=2.5, ge=1, le=100, description="grain inside the change mask, against around it"
    )
    max_duplicate_iou: Fraction = Field(
        default=0.90, description="change masks of the same kind that overlap more are duplicates"
    )


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


class LicencePolicy(Settings):
    """What may be used."""

    allow_noncommercial: bool = Field(
        default=True,
        description="false = refuse data and weights whose licence forbids commercial use",
    )
