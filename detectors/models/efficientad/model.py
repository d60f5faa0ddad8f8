"""EfficientAD: a student that imitates the teacher, and an autoencoder that the student imitates.

After Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", WACV 2024. Where the student misses the teacher, something is locally strange; where its
second half misses the autoencoder, something is out of place. Both maps are brought to one scale by
quantiles of the validation normals and averaged; the highest value is the image score.

Shapes: B batch; 3 colour; H, W picture; C channels of the teacher; h, w cells.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, DetectorSettings, Schedule, Scores
from detectors.data.image_folder import FolderPictures
from detectors.data.source_sampler import SourceSettings
from detectors.models.efficientad.autoencoder import Autoencoder
from detectors.networks.feature_cache import FeatureCache
from detectors.networks.pdn import BORDER, STRIDE, Kind, Pdn
from detectors.networks.teachers import Moments, Teacher, teacher_for
from pipeline.errors import UserError
from pipeline.models.backbone import normalise


class EfficientAdSettings(DetectorSettings):
    """What may be told to EfficientAD; defaults are the paper's M, without its ImageNet penalty."""

    teacher: str = "efficientad-m"
    pdn: Kind = Field(default="medium", description="skeleton of the student")
    width: float = Field(
        default=1.0, gt=0, le=4, description="student's hidden channels, times this"
    )
    autoencoder_width: float = Field(
        default=1.0, gt=0, le=4, description="autoencoder's hidden channels, times this"
    )
    dropout: float = Field(default=0.2, ge=0, lt=1, description="in the decoder, while training")
    hard_quantile: float = Field(
        default=0.999, ge=0, lt=1, description="the student learns from differences above it only"
    )
    penalty: Literal["none", "imagenet", "synthetic"] = Field(
        default="none",
        description="what keeps the student from imitating the teacher beyond the normals: "
        "foreign pictures (imagenet, the paper's), or the edited regions of synthetics",
    )
    penalty_folder: Path | None = Field(
        default=None, description="pictures for penalty=imagenet; the paper's are ImageNet's"
    )
    jitter: float = Field(
        default=0.2, ge=0, lt=1, description="largest change of brightness, contrast or saturation"
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="Adam's")
    weight_decay: float = Field(default=1e-5, ge=0, description="Adam's")
    drop_at: float = Field(
        default=0.95,
        gt=0,
        le=1,
        description="share of the steps after which the rate falls to a tenth",
    )
    low_quantile: float = Field(default=0.9, ge=0, lt=1, description="of a map's cells; becomes 0")
    high_quantile: float = Field(
        default=0.995, gt=0, le=1, description="of a map's cells; becomes 0.1"
    )
    cache_teacher_gib: float = Field(
        default=2.0,
        ge=0,
        description="keep the teacher's features of the normals if they fit; 0: never",
    )

    @model_validator(mode="after")
    def _check_quantiles(self) -> "EfficientAdSettings":
        if self.low_quantile >= self.high_quantile:
            raise ValueError("low_quantile must be below high_quantile")
        return self

    def sources(self) -> SourceSettings:
        """For penalty=synthetic: every normal with one of its anomalous samples."""
        return SourceSettings(clean_share=0, controls=False)


class Evidence(NamedTuple):
    """What a picture shows before any scale is known: two maps (B, h, w) and a vector (B, C)."""

    student_Bhw: Tensor
    autoencoder_Bhw: Tensor
    pooled_BC: Tensor


class Views(NamedTuple):
    """One training step's features, float32 (B, C, h, w): of the clean and the jittered view."""

    clean_teacher: Tensor
    clean_student: Tensor
    teacher: Tensor
    student: Tensor
    autoencoder: Tensor
    penalised_student: Tensor | None


class EfficientAd(Detector):
    """Teacher (frozen), student with twice its channels, autoencoder, and the maps' quantiles."""

    settings: EfficientAdSettings
    low_2: Tensor
    high_2: Tensor

    def __init__(self, settings: EfficientAdSettings, teacher: Teacher) -> None:
        super().__init__(settings)
        if settings.penalty == "synthetic":
            self.view = "sources"
        channels = teacher.channels
        self.teacher = teacher
        self.student = Pdn(settings.pdn, 2 * channels, settings.width)
        self.autoencoder = Autoencoder(settings.size, channels, settings.autoencoder_width)
        self.imitates_teacher = slice(0, channels)
        self.imitates_autoencoder = slice(channels, 2 * channels)
        self.register_buffer("low_2", torch.zeros(2))
        self.register_buffer("high_2", torch.ones(2))
        self.cache = FeatureCache(settings.cache_teacher_gib)
        self.pictures: FolderPictures | None = None
        if settings.penalty_folder is not None:
            self.pictures = FolderPictures(settings.penalty_folder, settings.size)

    # --- training ---------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """The teacher's statistics; its features stay in memory when they fit."""
        self._penalty_pictures()
        moments = Moments(self.teacher.channels)
        self.cache.clear()
        for batch in normals:
            raw_BChw = self.teacher.raw(normalise(batch["image"]))
            moments.add(raw_BChw)
            self.cache.add(self._cached_index(batch), raw_BChw)
        self.teacher.set_statistics(moments)
        self.cache.close()

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        return self._terms(self._views(batch), batch)

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        trainable = [value for value in self.parameters() if value.requires_grad]
        optimizer = Adam(
            trainable, self.settings.learning_rate,
            weight_decay=self.settings.weight_decay, fused=True,
        )  # fmt: skip
        drop = int(self.settings.drop_at * steps)
        return optimizer, LambdaLR(optimizer, lambda step: 1.0 if step < drop else 0.1)

    def _terms(self, views: Views, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, by name."""
        terms = {
            "student": hard_loss(
                views.clean_teacher, views.clean_student, self.settings.hard_quantile
            ),
            "autoencoder": F.mse_loss(views.autoencoder, views.teacher),
            # No gradient is stopped: the autoencoder yields to the student, too.
            "student_autoencoder": F.mse_loss(views.student, views.autoencoder),
        }
        if views.penalised_student is not None:
            squares = views.penalised_student.square()
            if self.settings.penalty == "synthetic":
                terms["penalty"] = masked_mean(
                    squares, batch["mask"] * batch["label"][:, None, None]
                )
            else:
                terms["penalty"] = squares.mean()
        return terms

    def _views(self, batch: Batch) -> Views:
        """Every feature that the loss needs, each computed once.

        The student sees all its pictures in one pass up to the last layer, of which each view takes
        only the half it is compared with.
        """
        images = batch["original"] if self.view == "sources" else batch["image"]
        clean = normalise(images)
        other = normalise(jittered(images, self.settings.jitter))
        with torch.no_grad():
            raw = self.cache.get(self._cached_index(batch))
            clean_teacher = self.teacher(clean) if raw is None else self.teacher.normalised(raw)
            teacher = self.teacher(other)
        seen = [clean, other]
        if self.settings.penalty == "synthetic":
            seen.append(normalise(batch["edited"]))
        elif pictures := self._penalty_pictures():
            seen.append(normalise(pictures.draw(len(images), images.device)))
        first, second, *third = self.student.trunk(torch.cat(seen)).chunk(len(seen))
        dropout = self.settings.dropout if self.training else 0.0
        penalised = None
        if third:
            first, penalised = (
                self.student.head(torch.cat((first, *third)), self.imitates_teacher)
                .float()
                .chunk(2)
            )
        else:
            first = self.student.head(first, self.imitates_teacher).float()
        return Views(
            clean_teacher,
            first,
            teacher,
            self.student.head(second, self.imitates_autoencoder).float(),
            self.autoencoder(other, dropout).float(),
            penalised,
        )

    def _cached_index(self, batch: Batch) -> Tensor | None:
        """Numbers of training normals; those of the view `sources` count samples as well."""
        return batch.get("index") if self.view == "normals" else None

    def _penalty_pictures(self) -> FolderPictures | None:
        """The foreign pictures, where the settings ask for them; their folder is looked at."""
        if self.settings.penalty != "imagenet":
            return None
        if self.pictures is None or not self.pictures.paths:
            raise UserError(
                "penalty=imagenet needs a folder of pictures: add --set penalty_folder=DIR, "
                "or use --set penalty=none"
            )
        return self.pictures

    # --- scoring ----------------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """The quantiles of both maps over the validation normals."""
        self._set_quantiles([self.evidence(batch["image"]) for batch in validation])

    def forward(self, images_B3HW: Tensor) -> Scores:
        evidence = self.evidence(images_B3HW)
        fused_Bhw = self.fused(evidence)
        return Scores(self.image_scores(evidence, fused_Bhw), self.pictured(fused_Bhw))

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """`student`: against the teacher; `autoencoder`: against the student's second half."""
        student_Bhw, autoencoder_Bhw = self.scaled_maps(self.evidence(images_B3HW))
        return {
            "student": self.pictured(student_Bhw),
            "autoencoder": self.pictured(autoencoder_Bhw),
        }

    def evidence(self, images_B3HW: Tensor) -> Evidence:
        """Both maps, and the mean over the cells of the student's first half."""
        return self._evidence(normalise(images_B3HW))

    def _evidence(self, normalised_B3HW: Tensor) -> Evidence:
        teacher = self.teacher(normalised_B3HW)
        student = self.student(normalised_B3HW).float()
        imitation, second = student[:, self.imitates_teacher], student[:, self.imitates_autoencoder]
        autoencoder = self.autoencoder(normalised_B3HW).float()
        return Evidence(
            (teacher - imitation).square().mean(1),
            (autoencoder - second).square().mean(1),
            imitation.mean((2, 3)),
        )

    def scaled_maps(self, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Both maps, 0 at the low and 0.1 at the high quantile of the validation normals."""
        scale_2 = 0.1 / (self.high_2 - self.low_2)
        return (
            (evidence.student_Bhw - self.low_2[0]) * scale_2[0],
            (evidence.autoencoder_Bhw - self.low_2[1]) * scale_2[1],
        )

    def fused(self, evidence: Evidence) -> Tensor:
        """The mean of both scaled maps (B, h, w)."""
        student_Bhw, autoencoder_Bhw = self.scaled_maps(evidence)
        return 0.5 * (student_Bhw + autoencoder_Bhw)

    def image_scores(self, evidence: Evidence, fused_Bhw: Tensor) -> Tensor:
        """The highest cell; the border that no cell covers cannot win."""
        return fused_Bhw.amax((1, 2))

    def pictured(self, maps_Bhw: Tensor) -> Tensor:
        """Maps at the picture's size, their border filled with their own minimum."""
        lowest_B11 = maps_Bhw.amin((1, 2), keepdim=True)
        padded_B1hw = F.pad((maps_Bhw - lowest_B11)[:, None], (BORDER,) * 4)
        size = self.settings.size
        smooth_B1HW = F.interpolate(padded_B1hw, (size, size), mode="bilinear", align_corners=False)
        return smooth_B1HW[:, 0] + lowest_B11

    def _set_quantiles(self, evidence: list[Evidence]) -> None:
        if not evidence:
            raise UserError(
                "the scale of the maps comes from validation normals, but the version has none; "
                "generate one whose validation split is not empty"
            )
        shares = [self.settings.low_quantile, self.settings.high_quantile]
        for place in range(2):
            cells_N = torch.cat([maps[place].flatten() for maps in evidence]).cpu().numpy()
            low, high = np.quantile(cells_N, shares)
            self.low_2[place] = float(low)
            self.high_2[place] = float(high)
        # A map that is the same everywhere has no scale of its own.
        self.high_2.copy_(torch.maximum(self.high_2, self.low_2 + 1e-6 * (1 + self.low_2)))


def hard_loss(target_BChw: Tensor, found_BChw: Tensor, quantile: float) -> Tensor:
    """Mean of the squared differences that reach their own picture's quantile, over the pictures.

    The quantile is found from its two neighbours in the order of sizes, of which only the top is
    sorted; torch.quantile sorts all and takes no more than 2^24 values.
    """
    squares_BN = (target_BChw - found_BChw).square().flatten(1)
    count = squares_BN.shape[1]
    place = quantile * (count - 1)
    below = int(place)
    top_BK = squares_BN.detach().topk(count - below, 1).values
    above_B1 = top_BK[:, -2:-1] if count - below > 1 else top_BK[:, -1:]
    threshold_B1 = torch.lerp(top_BK[:, -1:], above_B1, place - below)
    reached_BN = squares_BN >= threshold_B1
    return ((squares_BN * reached_BN).sum(1) / reached_BN.sum(1)).mean()


def masked_mean(values_BChw: Tensor, masks_BHW: Tensor) -> Tensor:
    """Mean over the cells that a mask touches; 0 where no mask has a pixel."""
    inner_BHW = masks_BHW[:, BORDER * STRIDE : -BORDER * STRIDE, BORDER * STRIDE : -BORDER * STRIDE]
    touched_B1hw = F.max_pool2d(inner_BHW[:, None].float(), STRIDE)
    total = touched_B1hw.sum() * values_BChw.shape[1]
    return (values_BChw * touched_B1hw).sum() / total.clamp_min(1)


def build(settings: EfficientAdSettings, weights: Path | None) -> EfficientAd:
    """EfficientAD on the teacher that `settings.teacher` names."""
    detector = EfficientAd(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


PAPER = (EfficientAdSettings(), Schedule(steps=70_000, batch_size=1))
TINY = (
    EfficientAdSettings(
        size=128, teacher="bundled-teacher", pdn="small", width=0.25, autoencoder_width=0.5,
        learning_rate=2e-3, hard_quantile=0.9,
    ),
    Schedule(steps=600, batch_size=1),
)  # fmt: skip


_LUMA = (0.299, 0.587, 0.114)


def jittered(images_B3HW: Tensor, strength: float = 0.2) -> Tensor:
    """uint8 images, each with one of the three changed by a factor of 1 - strength to 1 + strength.

    Which one and how much come from torch's global generator on the images' device. A factor blends
    with black, with the picture's mean grey, or with its own grey, as image editors do.
    """
    count, device = len(images_B3HW), images_B3HW.device
    which_B111 = torch.randint(3, (count, 1, 1, 1), device=device)
    factor_B111 = 1 + strength * (2 * torch.rand((count, 1, 1, 1), device=device) - 1)
    images = images_B3HW.float()
    red, green, blue = images.unbind(1)
    grey_B1HW = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]
    anchor_B1HW = torch.where(which_B111 == 1, grey_B1HW.mean((2, 3), keepdim=True), grey_B1HW)
    anchor_B1HW = anchor_B1HW * (which_B111 > 0)
    blended = anchor_B1HW + factor_B111 * (images - anchor_B1HW)
    return blended.round_().clamp_(0, 255).to(torch.uint8)
