"""LA-EAD: EfficientAD with a context extractor, whose pooled features describe the whole image.

After Li, Yang, Zhang, Yang, Liu, "LA-EAD", Sensors 2025, 25, 5016. Three changes to EfficientAD: no
ImageNet penalty; a reconstruction difference constraint (RDC), which makes student and autoencoder
differ from the teacher by similar amounts; and a third network, a patch description network with
outlook attention and dilation, which also imitates the teacher. The Mahalanobis distance of its
mean features is added to the score as in PUAD. The map is EfficientAD's.

Every row of the paper's ablation tables is a choice of settings: `extractor`, `distance`, `rdc`,
`penalty`, `positions`.

Shapes: B batch; 3 colour; H, W image; C channels of the teacher; h, w cells.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from detectors.base import Batch, Batches, Detector, DetectorEntry, Schedule
from detectors.models.efficientad.model import EfficientAd, RawOutputs, Views
from detectors.models.laead.outlook_attention import Msoa
from detectors.models.puad.frozen import FrozenPuad
from detectors.models.puad.model import ENTRY as PUAD
from detectors.models.puad.model import Puad
from detectors.models.puad.settings import PuadSettings
from detectors.networks.pdn import Pdn, scaled_channels
from detectors.networks.teachers import Teacher, teacher_for
from pipeline.models.backbone import normalise
from pipeline.models.trunks import trunk_of

# Insertion points of the attention: PosA, PosB and PosC of the paper.
Position = Literal["A", "B", "C"]


class ExtractorSettings(PuadSettings):
    """Settings of the context extractor."""

    extractor: Literal["none", "pdn", "msoa"] = Field(
        default="msoa",
        description="context extractor: none, pdn = without attention, msoa = with attention",
    )
    extractor_width: float = Field(
        default=1.0, gt=0, le=4, description="factor on the extractor's hidden channels"
    )
    positions: tuple[Position, ...] = Field(
        ("A",), description="where attention is inserted: after the second pooling (A), after the "
        "1 x 1 convolution (B), after the 3 x 3 convolution (C)",
    )  # fmt: skip
    heads: int = Field(
        default=8, ge=1, le=64, description="attention heads; must divide the channels"
    )
    dilate_conv4: bool = Field(default=True, description="dilation 2 in the 3 x 3 convolution")
    dilate_conv5: bool = Field(
        default=False, description="dilation 3 in the last 4 x 4 convolution"
    )
    # The paper's text has neither residual, norm nor activation.
    msoa_residual: bool = Field(
        default=False, description="add the attention's input to its output"
    )
    msoa_prenorm: bool = Field(default=False, description="layer norm before the attention")
    msoa_act: bool = Field(default=False, description="ReLU after the attention")

    @model_validator(mode="after")
    def _check_heads(self) -> "ExtractorSettings":
        # The layers that can have attention all have 512 channels at the paper's width.
        channels = scaled_channels(512, self.extractor_width)
        if self.extractor == "msoa" and channels % self.heads:
            raise ValueError(f"heads must divide the extractor's {channels} channels")
        return self


class LaEadSettings(ExtractorSettings):
    """Defaults are the paper's, which leaves EfficientAD's ImageNet penalty out."""

    penalty: Literal["auto", "none", "imagenet", "synthetic"] = "none"
    distance: Literal["none", "student", "extractor"] = Field(
        default="extractor", description="network whose mean features the Mahalanobis distance uses"
    )
    rdc: bool = Field(
        default=True, description="train with the reconstruction difference constraint"
    )
    rdc_weight: float = Field(
        default=0.1, ge=0, description="weight of that term; alpha in the paper"
    )
    rdc_detach_ae: bool = Field(
        default=False, description="let that term train only the student, not the autoencoder"
    )

    @model_validator(mode="after")
    def _check_distance(self) -> "LaEadSettings":
        if self.distance == "extractor" and self.extractor == "none":
            raise ValueError(
                "distance=extractor needs an extractor; set distance to student or none, or "
                "extractor to pdn or msoa"
            )
        return self


class ContextExtractor(Pdn):
    """PDN-M with dilation and attention: normalised images to features (B, C, h, w).

    The layers are reconstructed from the parameter and operation counts of the paper's Table 6:
    PDN-M itself explains the rows without outlook attention, dilation costs neither parameters nor
    operations, and only attention on 512 channels with 8 heads accounts for the rest.
    """

    def __init__(self, settings: ExtractorSettings, outputs: int) -> None:
        super().__init__("medium", outputs, settings.extractor_width)
        # The two dilations that keep the size of the maps with integer padding.
        if settings.dilate_conv4:
            _dilate(self.convs[3], dilation=2, padding=1)
        if settings.dilate_conv5:
            _dilate(self.convs[4], dilation=3, padding=3)
        channels = scaled_channels(512, settings.extractor_width)
        # Sorted, so that the order of the positions does not change the state dict.
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
        """One layer, and the attention behind it if there is one."""
        maps_BChw = super().layer(place, maps_BChw)
        # Layer 1 ends with the second pooling, 2 is the 1 x 1 and 3 the 3 x 3 convolution.
        name = {1: "A", 2: "B", 3: "C"}.get(place, "")
        return self.attention[name](maps_BChw) if name in self.attention else maps_BChw

    def pooled(self, images_B3HW: Tensor) -> Tensor:
        """Mean features (B, C). The last layer is linear, so the mean is taken before it.

        Mean and last layer are float32: distances under a narrow covariance amplify rounding.
        """
        mean_BC11 = self.trunk(images_B3HW).float().mean((2, 3), keepdim=True)
        with torch.autocast(mean_BC11.device.type, enabled=False):
            return self.head(mean_BC11).flatten(1)


class LaEad(Puad):
    """PUAD trained with the constraint, with the extractor's features in the distance."""

    settings: LaEadSettings

    def __init__(self, settings: LaEadSettings, teacher: Teacher) -> None:
        super().__init__(settings, teacher)
        self.extractor: ContextExtractor | None = None
        if settings.extractor != "none":
            self.extractor = ContextExtractor(settings, teacher.channels)

    def _terms(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        # L = L_TS + L_TAE + L_SAE + L_TE + alpha * L_RDC; the first three are EfficientAD's.
        terms = super()._terms(views, batch)
        # On the jittered view, whose tensors L_TAE and L_SAE have already computed.
        if self.settings.rdc:
            autoencoder = views.autoencoder
            # By default the constraint trains both networks, as the paper describes it.
            if self.settings.rdc_detach_ae:
                autoencoder = autoencoder.detach()
            constraint = difference_constraint(views.teacher, autoencoder, views.student)
            terms["rdc"] = self.settings.rdc_weight * constraint
        if self.extractor is not None:
            images = batch["original" if self.view == "sources" else "image"]
            # On the clean view, because scoring uses clean images.
            features = self.extractor(normalise(images)).float()
            terms["extractor"] = F.mse_loss(features, views.clean_teacher)
        return terms

    def _raw_outputs(self, normalised_B3HW: Tensor) -> RawOutputs:
        raw = super()._raw_outputs(normalised_B3HW)
        if self.settings.distance != "extractor":
            return raw
        return raw._replace(pooled_BC=self.pooled(normalised_B3HW))

    def pooled(self, normalised_B3HW: Tensor) -> Tensor:
        # The student's features, as in PUAD, are a row of the ablation.
        if self.settings.distance == "extractor" and self.extractor is not None:
            return self.extractor.pooled(normalised_B3HW)
        return super().pooled(normalised_B3HW)

    # With distance=none the methods below bypass PUAD: scores are EfficientAD's.

    def calibrate(self, train: Batches, held_out: Batches) -> None:
        if self.settings.distance == "none":
            EfficientAd.calibrate(self, train, held_out)
        else:
            super().calibrate(train, held_out)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        if self.settings.distance == "none":
            return EfficientAd.parts(self, images_B3HW)
        return super().parts(images_B3HW)

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        if self.settings.distance != "none":
            super().fuse(normals_NP, pairs_MP, labels_M, kinds_M)

    def combined(self, parts_BP: Tensor) -> Tensor:
        if self.settings.distance == "none":
            return EfficientAd.combined(self, parts_BP)
        return super().combined(parts_BP)

    def image_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        if self.settings.distance == "none":
            return EfficientAd.image_scores(self, raw, fused_Bhw)
        return super().image_scores(raw, fused_Bhw)


def difference_constraint(
    teacher_BChw: Tensor, autoencoder_BChw: Tensor, student_BChw: Tensor
) -> Tensor:
    """L_RDC: mean squared difference of both networks' squared differences from the teacher.

    Zero when the student S equals the autoencoder A, but also for its mirror image S = 2T - A about
    the teacher T; only L_SAE, which ties the student to the autoencoder, excludes that solution.
    """
    of_autoencoder = (teacher_BChw - autoencoder_BChw).square()
    return F.mse_loss(of_autoencoder, (teacher_BChw - student_BChw).square())


def _dilate(convolution: nn.Module, dilation: int, padding: int) -> None:
    """Dilate a convolution in place; the padding keeps its output size and its weights."""
    assert isinstance(convolution, nn.Conv2d)
    # Changed after construction, so that weights are drawn as in a plain PDN.
    convolution.dilation = (dilation, dilation)
    convolution.padding = (padding, padding)


def build(settings: LaEadSettings, weights: Path | None) -> Detector:
    """LA-EAD on the teacher that `settings.teacher` names."""
    if settings.networks == "frozen":
        return FrozenPuad(settings, trunk_of(settings.teacher, weights))
    detector = LaEad(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


ENTRY = DetectorEntry(
    name="laead",
    summary="EfficientAD with a context extractor and a constraint for logical anomalies (LA-EAD)",
    citation="Z. Li, Z. Yang, L. Zhang, L. Yang, J. Liu: LA-EAD. Sensors 2025, 25(16), 5016. "
    "doi 10.3390/s25165016.",
    build=build,
    paper=(LaEadSettings(), Schedule(steps=70_000, batch_size=1)),
    # Without trained networks nothing is left of what tells the two apart.
    cpu=(LaEadSettings(**PUAD.cpu[0].model_dump()), PUAD.cpu[1]),
    tiny=(
        # PUAD's tiny config, plus an extractor of 32 channels.
        LaEadSettings(**PUAD.tiny[0].model_dump(), extractor_width=0.0625, heads=2),
        Schedule(steps=400, batch_size=1),
    ),
)
