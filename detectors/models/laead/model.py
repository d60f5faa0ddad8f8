"""LA-EAD: EfficientAD with a context extractor whose pooled features measure the whole picture.

After Li, Yang, Zhang, Yang, Liu, "LA-EAD", Sensors 2025, 25, 5016. Three changes to EfficientAD:
no penalty pictures; a constraint (RDC) that lets student and autoencoder differ from the teacher by
like amounts; and a third network, a patch description network with outlook attention and dilation,
which imitates the teacher too. The Mahalanobis distance of its mean features joins the score as in
PUAD. The map stays EfficientAD's.

Every row of the paper's ablation is a choice of settings: `extractor`, `distance`, `rdc`,
`penalty`, `positions`.

Shapes: B batch; 3 colour; H, W picture; C channels of the teacher; h, w cells.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.base import Batch, Batches, Schedule
from detectors.models.efficientad.model import EfficientAd, Evidence, Views
from detectors.models.laead.outlook_attention import Msoa
from detectors.models.puad import model as puad
from detectors.models.puad.model import Puad, PuadSettings
from detectors.networks.pdn import Pdn, scaled
from detectors.networks.teachers import Teacher, teacher_for
from pipeline.models.backbone import normalise

Position = Literal["A", "B", "C"]


class ExtractorSettings(PuadSettings):
    """What may be told to the context extractor."""

    extractor: Literal["none", "pdn", "msoa"] = Field(
        default="msoa", description="third network: none, without attention, or with it"
    )
    extractor_width: float = Field(
        default=1.0, gt=0, le=4, description="hidden channels, times this"
    )
    positions: tuple[Position, ...] = Field(
        ("A",), description="attention after the second pooling (A), after the 1 x 1 (B), or after "
        "the 3 x 3 convolution (C)",
    )  # fmt: skip
    heads: int = Field(default=8, ge=1, le=64, description="of the attention; divides the channels")
    dilate_conv4: bool = Field(
        default=True, description="the 3 x 3 convolution skips every second cell"
    )
    dilate_conv5: bool = Field(
        default=False, description="the last 4 x 4 convolution uses every third"
    )
    msoa_residual: bool = Field(
        default=False, description="add the attention's input to its output"
    )
    msoa_prenorm: bool = Field(default=False, description="layer norm before the attention")
    msoa_act: bool = Field(default=False, description="ReLU after the attention")

    @model_validator(mode="after")
    def _check_heads(self) -> "ExtractorSettings":
        channels = scaled(512, self.extractor_width)
        if self.extractor == "msoa" and channels % self.heads:
            raise ValueError(f"heads must divide the extractor's {channels} channels")
        return self


class LaEadSettings(ExtractorSettings):
    """What may be told to LA-EAD; defaults are the paper's."""

    distance: Literal["none", "student", "extractor"] = Field(
        default="extractor", description="whose mean features the Mahalanobis distance is about"
    )
    rdc: bool = Field(default=True, description="reconstruction difference constraint")
    rdc_weight: float = Field(default=0.1, ge=0, description="of that term; the paper's alpha")
    rdc_detach_ae: bool = Field(default=False, description="the constraint moves the student only")

    @model_validator(mode="after")
    def _check_distance(self) -> "LaEadSettings":
        if self.distance == "extractor" and self.extractor == "none":
            raise ValueError(
                "distance=extractor needs an extractor; set distance to student or none, or "
                "extractor to pdn or msoa"
            )
        return self


class ContextExtractor(Pdn):
    """PDN-M's skeleton with dilation and attention: normalised images to features (B, C, h, w).

    The parameter and operation counts of the paper's tables fit this: dilation costs neither, and
    attention at 512 channels with 8 heads costs what is left.
    """

    def __init__(self, settings: ExtractorSettings, outputs: int) -> None:
        super().__init__("medium", outputs, settings.extractor_width)
        if settings.dilate_conv4:
            _dilate(self.convs[3], dilation=2, padding=1)
        if settings.dilate_conv5:
            _dilate(self.convs[4], dilation=3, padding=3)
        channels = scaled(512, settings.extractor_width)
        places = settings.positions if settings.extractor == "msoa" else ()
        self.attention = nn.ModuleDict(
            {
                place: Msoa(
                    channels, settings.heads, settings.msoa_residual, settings.msoa_prenorm,
                    settings.msoa_act,
                )
                for place in sorted(set(places))
            }
        )  # fmt: skip

    def layer(self, place: int, maps_BChw: Tensor) -> Tensor:
        """One layer and the attention that stands behind it."""
        maps_BChw = super().layer(place, maps_BChw)
        name = {1: "A", 2: "B", 3: "C"}.get(place, "")
        return self.attention[name](maps_BChw) if name in self.attention else maps_BChw

    def pooled(self, images_B3HW: Tensor) -> Tensor:
        """Mean features (B, C). The last layer is linear, so the mean is taken before it.

        Mean and last layer are float32: a distance under a narrow covariance shows rounding.
        """
        mean_BC11 = self.trunk(images_B3HW).float().mean((2, 3), keepdim=True)
        with torch.autocast(mean_BC11.device.type, enabled=False):
            return self.head(mean_BC11).flatten(1)


class LaEad(Puad):
    """PUAD with the constraint in training and the extractor's features in the distance."""

    settings: LaEadSettings

    def __init__(self, settings: LaEadSettings, teacher: Teacher) -> None:
        super().__init__(settings, teacher)
        self.extractor: ContextExtractor | None = None
        if settings.extractor != "none":
            self.extractor = ContextExtractor(settings, teacher.channels)

    def _terms(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        terms = super()._terms(views, batch)
        if self.settings.rdc:
            autoencoder = views.autoencoder
            if self.settings.rdc_detach_ae:
                autoencoder = autoencoder.detach()
            constraint = difference_constraint(views.teacher, autoencoder, views.student)
            terms["rdc"] = self.settings.rdc_weight * constraint
        if self.extractor is not None:
            images = batch["original" if self.view == "sources" else "image"]
            found = self.extractor(normalise(images)).float()
            terms["extractor"] = F.mse_loss(found, views.clean_teacher)
        return terms

    def _evidence(self, normalised_B3HW: Tensor) -> Evidence:
        evidence = super()._evidence(normalised_B3HW)
        if self.settings.distance != "extractor":
            return evidence
        return evidence._replace(pooled_BC=self.pooled(normalised_B3HW))

    def pooled(self, normalised_B3HW: Tensor) -> Tensor:
        if self.settings.distance == "extractor" and self.extractor is not None:
            return self.extractor.pooled(normalised_B3HW)
        return super().pooled(normalised_B3HW)

    def calibrate(self, train: Batches, validation: Batches) -> None:
        if self.settings.distance == "none":
            EfficientAd.calibrate(self, train, validation)
        else:
            super().calibrate(train, validation)

    def tune(self, normals: Batches, pairs: Batches) -> None:
        if self.settings.distance != "none":
            super().tune(normals, pairs)

    def image_scores(self, evidence: Evidence, fused_Bhw: Tensor) -> Tensor:
        if self.settings.distance == "none":
            return EfficientAd.image_scores(self, evidence, fused_Bhw)
        return super().image_scores(evidence, fused_Bhw)


def difference_constraint(
    teacher_BChw: Tensor, autoencoder_BChw: Tensor, student_BChw: Tensor
) -> Tensor:
    """Mean squared difference of both networks' squared differences from the teacher (RDC).

    Zero when the student equals the autoencoder, but also when it is its mirror image about the
    teacher; only the loss that ties the student to the autoencoder tells these apart.
    """
    of_autoencoder = (teacher_BChw - autoencoder_BChw).square()
    return F.mse_loss(of_autoencoder, (teacher_BChw - student_BChw).square())


def _dilate(convolution: nn.Module, dilation: int, padding: int) -> None:
    """Spread the taps of a convolution; the padding keeps the size that it had."""
    assert isinstance(convolution, nn.Conv2d)
    convolution.dilation = (dilation, dilation)
    convolution.padding = (padding, padding)


def build(settings: LaEadSettings, weights: Path | None) -> LaEad:
    """LA-EAD on the teacher that `settings.teacher` names."""
    detector = LaEad(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


PAPER = (LaEadSettings(), Schedule(steps=70_000, batch_size=1))
TINY = (
    LaEadSettings(**puad.TINY[0].model_dump(), extractor_width=0.0625, heads=2),
    Schedule(steps=400, batch_size=1),
)
