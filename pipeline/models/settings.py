"""Settings of the models: backends, device and precision, limits of the proposals."""

from typing import Any, Literal

from pydantic import Field

from pipeline.settings import SIZE_MAX, SIZE_MIN, SIZE_STEP, Fraction, Settings

# The stages that use a model, in the order of the pipeline; `fill` may have none.
MODEL_STAGES = ("foreground", "proposals", "inpaint", "fill", "features")


class BackendSettings(Settings):
    """Settings that all model stages share."""

    weights: str | None = Field(
        default=None,
        description="a weights file of your own; relative to the manifest; null = look it up",
    )


class ForegroundBackend(BackendSettings):
    """U²-Net: separates the product from its background."""

    backend: Literal["auto", "u2net", "u2netp", "bundled"] = Field(
        default="auto",
        description="auto = the best official one found, checked by the bundled one where it is in "
        "doubt; else the bundled one",
    )


class ProposalsBackend(BackendSettings):
    """SAM: proposes objects inside the foreground."""

    backend: Literal["auto", "vit_b", "vit_l", "vit_h", "small"] = Field(
        default="auto",
        description="auto = the largest official one found, else the bundled small SAM",
    )


class InpaintBackend(BackendSettings):
    """The inpainter, which fills the hole of a removed object."""

    # `lama_cleaner` is the program's own code on LaMa's file; `telea` and `ns` are OpenCV's.
    backend: Literal[
        "auto", "lama", "candidates", "patchmatch", "small_lama", "lama_cleaner", "telea", "ns",
        "remote",
    ] = Field(
        default="auto",
        description="auto = official LaMa when found, else candidates: PatchMatch and the bundled "
        "small LaMa, of which the gate takes the nearer one; remote = a server, to which the "
        "images are sent",
    )  # fmt: skip
    url: str | None = Field(
        default=None,
        # No user name, password, query or fragment: the address is written into plans and logs.
        pattern=r"^https?://[^\s@?#]+$",
        description="remote only: address of the server, such as http://127.0.0.1:8080",
    )
    api: Literal["lama_cleaner", "iopaint"] = Field(
        default="lama_cleaner", description="remote only: which program runs on the server"
    )
    timeout: float = Field(
        default=120.0, gt=0, le=3600, description="remote only: seconds to wait for one answer"
    )


class FillBackend(BackendSettings):
    """The diffusion model, which paints new content from a prompt (docs/inpainting.md)."""

    backend: Literal["none", "diffusers"] = Field(
        default="none",
        description="diffusers = an inpainting pipeline from a folder; `weights` names the folder",
    )
    # Arguments of the call of a diffusers pipeline.
    steps: int = Field(default=50, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(
        default=7.5,
        ge=0,
        le=100,
        description="classifier-free guidance: how closely to follow the prompt",
    )
    strength: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="1 = start from pure noise; lower = keep some of the original",
    )
    negative_prompt: str = Field(
        default="", max_length=1000, description="what must not appear; empty = none"
    )
    size: int | None = Field(
        default=None, ge=SIZE_MIN, le=SIZE_MAX, multiple_of=SIZE_STEP,
        description="px: side of the square that the model inpaints; null = its native size",
    )  # fmt: skip


class FeaturesBackend(BackendSettings):
    """The network whose features tell the kinds of parts apart."""

    backend: Literal["auto", "lite0", "bundled"] = Field(
        default="auto",
        description="auto = EfficientNet-Lite0 when found, else the bundled small teacher",
    )


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
    features: FeaturesBackend = Field(
        default=FeaturesBackend(), description="ImageNet features: tell kinds of parts apart"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto = cuda when there is one; cuda without one is an error"
    )
    # Both precisions give valid datasets, but different ones.
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto = bf16 where the device runs it faster, else fp32"
    )

    def content(self) -> dict[str, Any]:
        """The settings that decide pixels, as JSON: without device, paths and addresses.

        The model behind a path or address enters a dataset's identity by its digest or name.
        """
        # Weights enter by their SHA-256, a server by the name of its model.
        content = self.model_dump(mode="json", exclude={"device"})
        for stage in MODEL_STAGES:
            del content[stage]["weights"]
        for place in ("url", "api", "timeout"):
            del content["inpaint"][place]
        # Without a filler its settings must not change the identity of a dataset.
        if self.fill.backend == "none":
            del content["fill"]
        return content


class ProposalSettings(Settings):
    """Prompts of SAM, and the limits that its masks must satisfy."""

    points: int = Field(
        default=64, ge=1, le=1024, description="foreground points that SAM is prompted with"
    )
    # Shares, so that one setting fits every image size. They also are what RELAXATIONS loosen.
    min_area: Fraction = Field(default=0.002, description="smallest object, share of the image")
    max_area: Fraction = Field(default=0.20, description="largest object, share of the image")
    min_foreground_overlap: Fraction = Field(
        default=0.8,
        description="share of the object that must lie on foreground, or on what stands out from "
        "its surroundings",
    )
    # An edit of the whole product is no logical anomaly.
    max_foreground_share: Fraction = Field(
        default=0.5,
        description="share of the foreground above which an object is the whole product",
    )
    # Masks that follow the frame are usually the background.
    max_border: Fraction = Field(
        default=0.10, description="share of the image's border pixels that an object may touch"
    )
    # None takes the thresholds of the backend (QUALITY in build.py): the small SAM predicts lower
    # IoUs than the official ones.
    min_component: Fraction | None = Field(
        default=None,
        description="share of the object's area that its largest component must hold; only "
        "that one is kept; null = the backend's default",
    )
    max_iou: Fraction = Field(
        default=0.85, description="IoU above which two proposals count as the same object"
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


# Overrides of the proposal settings under which a rule book looks for parts: smaller and larger
# ones count than for edits.
_PARTS_LIMITS: dict[str, Any] = {
    "min_area": 0.001,
    "max_area": 0.30,
    "max_foreground_share": 0.80,
    "max_proposals": 96,
}
# Factor on the minimum stability of their outlines: under highlights or film outlines are soft, and
# good masks (a tenth of the bolts in a bag) would be dropped.
_STABILITY_FACTOR = 0.8


def softer(settings: ProposalSettings) -> ProposalSettings:
    """The limits for parts that rule books count, given those for objects that are edited."""
    stability = _STABILITY_FACTOR * (settings.min_stability or 0.0)
    return settings.model_copy(update=_PARTS_LIMITS | {"min_stability": stability})
