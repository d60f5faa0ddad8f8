"""Settings of the models: which backends, where they run, which proposals are kept."""

from typing import Any, Literal

from pydantic import Field

from pipeline.settings import SIZE_MAX, SIZE_MIN, SIZE_STEP, Fraction, Settings

MODEL_STAGES = ("foreground", "proposals", "inpaint", "fill")
"""The stages that a model works at, in the order of the pipeline; `fill` may have none."""


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
