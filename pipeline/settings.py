"""What each stage may be told, as plain frozen models; a stage imports only its own class.

Every field carries its unit and its reason in `description`: docs/manifest.md and the JSON Schema
are generated from them. Pixel lengths are given at 256 px and scaled with the image (`pixels_at`).
Defaults are the numbers of the source method where it has any, else measured here.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipeline.records import KINDS, is_control

EDIT_KINDS = tuple(kind for kind in KINDS if not is_control(kind))
"""The kinds that change the meaning; controls are asked for by `controls_per_image`."""

REFERENCE_PX = 256
"""The image height at which pixel lengths in the settings are stated."""

SIZE_STEP, SIZE_MIN, SIZE_MAX = 8, 64, 2048

MODEL_STAGES = ("foreground", "proposals", "inpaint", "fill")
"""The stages that a model works at, in the order of the pipeline; `fill` may have none."""

EditKind = Literal[
    "missing",
    "extra",
    "misplaced",
    "swapped",
    "wrong_type",
    "wrong_orientation",
    "wrong_size",
    "wrong_colour",
    "wrong_order",
    "combined",
]
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
    """What the model stages share."""

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

    backend: Literal["auto", "lama", "lama_cleaner", "small_lama", "telea", "ns", "remote"] = Field(
        default="auto",
        description="auto = official LaMa when found, else bundled small LaMa; remote = a server, "
        "to which the images are sent",
    )
    url: str | None = Field(
        default=None,
        pattern=r"^https?://[^\s@?#]+$",
        description="remote only: address of the server, such as http://127.0.0.1:8080",
    )
    api: Literal["lama_cleaner", "iopaint"] = Field(
        default="lama_cleaner", description="remote only: which program the server is"
    )
    timeout: float = Field(
        default=120.0, gt=0, le=3600, description="remote only: seconds to wait for one answer"
    )


class FillBackend(BackendSettings):
    """What paints something new from a prompt: *fill* and *replace* (docs/inpainting.md)."""

    backend: Literal["none", "diffusers"] = Field(
        default="none",
        description="diffusers = an inpainting pipeline from a folder; `weights` names the folder",
    )
    steps: int = Field(default=50, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(default=7.5, ge=0, le=100, description="how closely to the prompt")
    strength: float = Field(
        default=1.0, gt=0, le=1, description="1 = from pure noise; below = keep some of what was"
    )
    negative_prompt: str = Field(
        default="", max_length=1000, description="what must not appear; empty = nothing said"
    )
    size: int | None = Field(
        default=None, ge=SIZE_MIN, le=SIZE_MAX, multiple_of=SIZE_STEP,
        description="px: side of the square that the model paints at once; null = its native size",
    )  # fmt: skip


class ModelSettings(Settings):
    """The models and where they run."""

    foreground: ForegroundBackend = Field(default=ForegroundBackend(), description="U²-Net")
    proposals: ProposalsBackend = Field(default=ProposalsBackend(), description="SAM")
    inpaint: InpaintBackend = Field(
        default=InpaintBackend(), description="LaMa, OpenCV or a server: removes objects"
    )
    fill: FillBackend = Field(
        default=FillBackend(), description="diffusion: puts other objects in their place"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda when there is one; cuda without one is an error"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 where the device runs it faster, else fp32"
    )

    def content(self) -> dict[str, Any]:
        """What decides pixels, as JSON: no device, and no places (paths, addresses).

        What lies at those places enters a dataset's identity by its digest or its name.
        """
        content = self.model_dump(mode="json", exclude={"device"})
        for stage in MODEL_STAGES:
            del content[stage]["weights"]
        for place in ("url", "api", "timeout"):
            del content["inpaint"][place]
        if self.fill.backend == "none":
            del content["fill"]
        return content


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
