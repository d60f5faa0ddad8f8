"""Settings of EfficientAD, which PUAD and LA-EAD extend."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from detectors.base import DetectorSettings
from detectors.data.source_sampler import SourceSettings
from detectors.networks.pdn import Kind


class EfficientAdSettings(DetectorSettings):
    """Defaults are those of the paper's EfficientAD-M; its ImageNet penalty needs a folder."""

    teacher: str = "efficientad-m"
    pdn: Kind = Field(
        default="medium", description="architecture of the student: PDN-S (small) or PDN-M (medium)"
    )
    width: float = Field(
        default=1.0, gt=0, le=4, description="factor on the student's hidden channels"
    )
    autoencoder_width: float = Field(
        default=1.0, gt=0, le=4, description="factor on the autoencoder's hidden channels"
    )
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="dropout in the autoencoder's decoder during training"
    )
    # p_hard of the paper.
    hard_quantile: float = Field(
        default=0.999,
        ge=0,
        lt=1,
        description="hard feature loss: the student learns only from differences above this "
        "quantile",
    )
    penalty: Literal["auto", "none", "imagenet", "synthetic"] = Field(
        default="auto",
        description="keeps the student from imitating the teacher outside the training normals: "
        "imagenet = penalise its output on images from `penalty_folder`, as published; synthetic "
        "= on the edited regions of synthetic anomalies; auto = imagenet when `penalty_folder` is "
        "set, otherwise none",
    )
    penalty_folder: Path | None = Field(
        default=None, description="image folder for the penalty; the paper uses ImageNet"
    )
    # The paper draws factors of 0.8 to 1.2.
    jitter: float = Field(
        default=0.2,
        ge=0,
        lt=1,
        description="largest relative change of brightness, contrast or saturation in the "
        "autoencoder's training images",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="learning rate of Adam")
    weight_decay: float = Field(default=1e-5, ge=0, description="weight decay of Adam")
    drop_at: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="share of the steps after which the learning rate drops to a tenth",
    )
    # q_a and q_b of the paper.
    low_quantile: float = Field(
        default=0.9,
        ge=0,
        lt=1,
        description="quantile of the map values of validation normals that is scaled to 0",
    )
    high_quantile: float = Field(
        default=0.995,
        gt=0,
        le=1,
        description="quantile of the map values of validation normals that is scaled to 0.1",
    )
    # The published code pads the fused map with zeros. An image score never depends on this.
    border: Literal["zero", "lowest"] = Field(
        default="zero",
        description="value of a map's outermost pixels, over which no cell lies: zero = the level "
        "of `low_quantile`, as published; lowest = the image's lowest value, so that the border "
        "never stands out",
    )
    # At 256 px one image takes 4.8 MB, so the default holds some 440 images.
    cache_teacher_gib: float = Field(
        default=2.0,
        ge=0,
        description="cache the teacher's features of the training normals if they fit into this "
        "many GiB; 0: never",
    )

    @model_validator(mode="after")
    def _check_quantiles(self) -> "EfficientAdSettings":
        if self.low_quantile >= self.high_quantile:
            raise ValueError("low_quantile must be below high_quantile")
        return self

    @property
    def penalty_used(self) -> Literal["none", "imagenet", "synthetic"]:
        """`penalty` with `auto` resolved."""
        if self.penalty != "auto":
            return self.penalty
        return "none" if self.penalty_folder is None else "imagenet"

    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: what the paper has and these settings leave out or ignore."""
        if self.penalty_folder is not None and self.penalty_used != "imagenet":
            return (f"penalty_folder has no effect, as penalty is {self.penalty}",)
        if self.penalty != "auto" or self.penalty_folder is not None:
            return ()
        return (
            "no ImageNet penalty, which the published training has: pass a folder of varied "
            "images with --set penalty_folder=DIR, or --set penalty=none if that is intended",
        )

    def sources(self) -> SourceSettings:
        """Sampling for penalty=synthetic: every normal with one of its synthetic anomalies."""
        return SourceSettings(clean_share=0, controls=False)
