"""EfficientAD: a student that imitates a frozen teacher, and an autoencoder.

After Batzner, Heckler, König, "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level
Latencies", WACV 2024. Where the student misses the teacher, something is locally strange; where its
second half misses the autoencoder, a logical constraint is violated. Both maps are brought to one
scale by quantiles of the validation normals and averaged; the highest pixel is the image score.

Shapes: B batch; 3 colour; H, W image; C channels of the teacher; h, w cells.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, DetectorEntry, Schedule, Scores
from detectors.data.image_folder import FolderImages
from detectors.models.efficientad.autoencoder import Autoencoder
from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.networks.feature_cache import FeatureCache
from detectors.networks.pdn import BORDER, STRIDE, Pdn
from detectors.networks.teachers import Moments, Teacher, teacher_for
from pipeline.errors import UserError
from pipeline.models.backbone import normalise

# Weights of red, green and blue in the grey value (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


class RawOutputs(NamedTuple):
    """Outputs before any calibration: two maps (B, h, w) and pooled student features (B, C)."""

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
    """Frozen teacher, student with twice its channels, autoencoder, and the maps' quantiles.

    `low_2` and `high_2` are the quantiles of the student's and of the autoencoder's map.
    """

    settings: EfficientAdSettings
    low_2: Tensor
    high_2: Tensor

    def __init__(self, settings: EfficientAdSettings, teacher: Teacher) -> None:
        super().__init__(settings)
        if settings.penalty_used == "synthetic":
            self.view = "sources"
        channels = teacher.channels
        self.teacher = teacher
        self.student = Pdn(settings.pdn, 2 * channels, settings.width)
        self.autoencoder = Autoencoder(settings.size, channels, settings.autoencoder_width)
        # S_T and S_A of the paper: the first half of the student's outputs imitates the teacher,
        # the second half the autoencoder.
        self.imitates_teacher = slice(0, channels)
        self.imitates_autoencoder = slice(channels, 2 * channels)
        self.register_buffer("low_2", torch.zeros(2))
        self.register_buffer("high_2", torch.ones(2))
        self.cache = FeatureCache(settings.cache_teacher_gib)
        self.penalty_images: FolderImages | None = None
        if settings.penalty_folder is not None:
            self.penalty_images = FolderImages(settings.penalty_folder, settings.size)

    # --- training ---------------------------------------------------------------------------------

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Measure the teacher's channel statistics and cache its features if they fit."""
        # Fail on a bad penalty folder now rather than in the first step.
        self._penalty_source()
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
        """The terms of the loss by name: L_hard, L_AE, L_STAE and the penalty of Algorithm 1."""
        terms = {
            "student": hard_loss(
                views.clean_teacher, views.clean_student, self.settings.hard_quantile
            ),
            "autoencoder": F.mse_loss(views.autoencoder, views.teacher),
            # No gradient is stopped, as in public implementations: the autoencoder also moves
            # towards the student.
            "student_autoencoder": F.mse_loss(views.student, views.autoencoder),
        }
        if views.penalised_student is not None:
            squares = views.penalised_student.square()
            if self.settings.penalty_used == "synthetic":
                # Controls have label 0: their edited regions are normal and not penalised.
                terms["penalty"] = masked_mean(
                    squares, batch["mask"] * batch["label"][:, None, None]
                )
            else:
                terms["penalty"] = squares.mean()
        return terms

    def _views(self, batch: Batch) -> Views:
        """All features that the loss needs, each computed once.

        The student sees all its images in one pass up to the last layer, of which each view needs
        only the half it is compared with.
        """
        images = batch["original"] if self.view == "sources" else batch["image"]
        clean = normalise(images)
        other = normalise(jittered(images, self.settings.jitter))
        with torch.no_grad():
            # Cached features are raw: the cache is filled before the statistics are known.
            raw = self.cache.get(self._cached_index(batch))
            clean_teacher = self.teacher(clean) if raw is None else self.teacher.normalised(raw)
            teacher = self.teacher(other)
        # The clean view, the jittered view, and the images of the penalty, if there is one.
        inputs = [clean, other]
        if self.settings.penalty_used == "synthetic":
            inputs.append(normalise(batch["edited"]))
        elif source := self._penalty_source():
            inputs.append(normalise(source.draw(len(images), images.device)))
        first, second, *third = self.student.trunk(torch.cat(inputs)).chunk(len(inputs))
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
        """Numbers of training normals; numbers of the view `sources` also count samples."""
        return batch.get("index") if self.view == "normals" else None

    def _penalty_source(self) -> FolderImages | None:
        """The images of the ImageNet penalty; UserError when the settings need but lack them."""
        if self.settings.penalty_used != "imagenet":
            return None
        if self.penalty_images is None or not self.penalty_images.paths:
            raise UserError(
                "penalty=imagenet needs a folder of images: add --set penalty_folder=DIR, "
                "or use --set penalty=none"
            )
        return self.penalty_images

    # --- scoring ----------------------------------------------------------------------------------

    @torch.no_grad()
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """The quantiles of both maps over the held-out normals."""
        self._set_quantiles([self.raw_outputs(batch["image"]) for batch in held_out])

    def forward(self, images_B3HW: Tensor) -> Scores:
        raw = self.raw_outputs(images_B3HW)
        fused_Bhw = self.fused_map(raw)
        return Scores(self.image_scores(raw, fused_Bhw), self.at_image_size(fused_Bhw))

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """`student`: teacher against student; `autoencoder`: autoencoder against student."""
        student_Bhw, autoencoder_Bhw = self.scaled_maps(self.raw_outputs(images_B3HW))
        return {
            "student": self.at_image_size(student_Bhw),
            "autoencoder": self.at_image_size(autoencoder_Bhw),
        }

    def raw_outputs(self, images_B3HW: Tensor) -> RawOutputs:
        """Both maps, and the mean over the cells of the student's first half."""
        return self._raw_outputs(normalise(images_B3HW))

    def _raw_outputs(self, normalised_B3HW: Tensor) -> RawOutputs:
        teacher = self.teacher(normalised_B3HW)
        student = self.student(normalised_B3HW).float()
        imitation, second = student[:, self.imitates_teacher], student[:, self.imitates_autoencoder]
        autoencoder = self.autoencoder(normalised_B3HW).float()
        return RawOutputs(
            (teacher - imitation).square().mean(1),
            (autoencoder - second).square().mean(1),
            imitation.mean((2, 3)),
        )

    def scaled_maps(self, raw: RawOutputs) -> tuple[Tensor, Tensor]:
        """Both maps, 0 at the low and 0.1 at the high quantile of the validation normals."""
        scale_2 = 0.1 / (self.high_2 - self.low_2)
        return (
            (raw.student_Bhw - self.low_2[0]) * scale_2[0],
            (raw.autoencoder_Bhw - self.low_2[1]) * scale_2[1],
        )

    def fused_map(self, raw: RawOutputs) -> Tensor:
        """The mean of both scaled maps (B, h, w)."""
        student_Bhw, autoencoder_Bhw = self.scaled_maps(raw)
        return 0.5 * (student_Bhw + autoencoder_Bhw)

    def image_scores(self, raw: RawOutputs, fused_Bhw: Tensor) -> Tensor:
        """Image scores (B,); EfficientAD's are the scores of its map."""
        return self.map_scores(fused_Bhw)

    def map_scores(self, fused_Bhw: Tensor) -> Tensor:
        """The highest pixel (B,) of the fused map at image size, as in the public code.

        Its border is zero, as there, unless all cells are negative: then the score is the highest
        cell, where the public code's is the zero of the padding for every such image.
        """
        return self._upsampled(fused_Bhw, _zero_or_highest(fused_Bhw)).amax((1, 2))

    def at_image_size(self, maps_Bhw: Tensor) -> Tensor:
        """Maps (B, size, size); the border, over which no cell lies, is filled as `border` says."""
        if self.settings.border == "lowest":
            return self._upsampled(maps_Bhw, maps_Bhw.amin((1, 2), keepdim=True))
        return self._upsampled(maps_Bhw, _zero_or_highest(maps_Bhw))

    def _upsampled(self, maps_Bhw: Tensor, fill_B11: Tensor) -> Tensor:
        """Maps (B, size, size), padded by `BORDER` cells of each map's own fill value."""
        # Zero is the only fill value that all exporters know, so the fill value is moved there.
        padded_B1hw = F.pad((maps_Bhw - fill_B11)[:, None], (BORDER,) * 4)
        size = self.settings.size
        smooth_B1HW = F.interpolate(padded_B1hw, (size, size), mode="bilinear", align_corners=False)
        return smooth_B1HW[:, 0] + fill_B11

    def _set_quantiles(self, raw: list[RawOutputs]) -> None:
        """Set `low_2` and `high_2` from the maps of the validation normals."""
        if not raw:
            raise UserError(
                "the scale of the maps comes from validation normals, but the version has none; "
                "generate one whose validation split is not empty"
            )
        shares = [self.settings.low_quantile, self.settings.high_quantile]
        # NumPy, because torch.quantile accepts at most 2^24 values.
        for place in range(2):
            cells_N = torch.cat([maps[place].flatten() for maps in raw]).cpu().numpy()
            low, high = np.quantile(cells_N, shares)
            self.low_2[place] = float(low)
            self.high_2[place] = float(high)
        # A constant map has equal quantiles: avoid a division by zero.
        self.high_2.copy_(torch.maximum(self.high_2, self.low_2 + 1e-6 * (1 + self.low_2)))


def _zero_or_highest(maps_Bhw: Tensor) -> Tensor:
    """(B, 1, 1): 0, or a map's highest cell where that is negative, so padding never exceeds it."""
    return maps_Bhw.amax((1, 2), keepdim=True).clamp_max(0)


def hard_loss(target_BChw: Tensor, found_BChw: Tensor, quantile: float) -> Tensor:
    """The paper's hard feature loss, averaged over the images.

    Per image, the mean of the squared differences that reach their own `quantile` (p_hard). The
    quantile is interpolated between its two neighbours in sorted order. Only the values above it
    are sorted, as torch.quantile sorts everything and accepts at most 2^24 values.
    """
    squares_BN = (target_BChw - found_BChw).square().flatten(1)
    count = squares_BN.shape[1]
    place = quantile * (count - 1)
    below = int(place)
    # The last of the top values is the lower neighbour, the one before it the upper.
    top_BK = squares_BN.detach().topk(count - below, 1).values
    above_B1 = top_BK[:, -2:-1] if count - below > 1 else top_BK[:, -1:]
    threshold_B1 = torch.lerp(top_BK[:, -1:], above_B1, place - below)
    # A product with the mask keeps shapes fixed; boolean indexing would wait for the GPU.
    reached_BN = squares_BN >= threshold_B1
    return ((squares_BN * reached_BN).sum(1) / reached_BN.sum(1)).mean()


def masked_mean(values_BChw: Tensor, masks_BHW: Tensor) -> Tensor:
    """Mean over the cells that a mask touches; 0 where no mask has a pixel."""
    # Cells cover the image without its border, in blocks of STRIDE x STRIDE pixels.
    inner_BHW = masks_BHW[:, BORDER * STRIDE : -BORDER * STRIDE, BORDER * STRIDE : -BORDER * STRIDE]
    touched_B1hw = F.max_pool2d(inner_BHW[:, None].float(), STRIDE)
    total = touched_B1hw.sum() * values_BChw.shape[1]
    return (values_BChw * touched_B1hw).sum() / total.clamp_min(1)


def jittered(images_B3HW: Tensor, strength: float = 0.2) -> Tensor:
    """uint8 images; in each, one of three properties changes by a factor of 1 ± `strength`.

    Brightness, contrast or saturation, as in Algorithm 1 of the paper. The choice and the factor
    come from torch's global generator on the images' device. As in Pillow, a factor blends the
    image with black, with its mean grey, or with its own grey version.
    """
    count, device = len(images_B3HW), images_B3HW.device
    which_B111 = torch.randint(3, (count, 1, 1, 1), device=device)
    factor_B111 = 1 + strength * (2 * torch.rand((count, 1, 1, 1), device=device) - 1)
    images = images_B3HW.float()
    red, green, blue = images.unbind(1)
    grey_B1HW = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]
    # The image to blend with: 0 black (brightness), 1 mean grey (contrast), 2 grey (saturation).
    anchor_B1HW = torch.where(which_B111 == 1, grey_B1HW.mean((2, 3), keepdim=True), grey_B1HW)
    anchor_B1HW = anchor_B1HW * (which_B111 > 0)
    blended = anchor_B1HW + factor_B111 * (images - anchor_B1HW)
    return blended.round_().clamp_(0, 255).to(torch.uint8)


def build(settings: EfficientAdSettings, weights: Path | None) -> EfficientAd:
    """EfficientAD with the teacher that `settings.teacher` names."""
    detector = EfficientAd(settings, teacher_for(settings.teacher, weights))
    return detector.to(memory_format=torch.channels_last)


ENTRY = DetectorEntry(
    name="efficientad",
    summary="a student that imitates a frozen teacher and an autoencoder (EfficientAD)",
    citation="K. Batzner, L. Heckler, R. König: EfficientAD: Accurate Visual Anomaly Detection at "
    "Millisecond-Level Latencies. WACV 2024.",
    build=build,
    paper=(EfficientAdSettings(), Schedule(steps=70_000, batch_size=1)),
    cpu=(
        # As tiny, at the paper's size and on a better teacher.
        EfficientAdSettings(
            teacher="efficientnet-lite0", pdn="small", width=0.25, autoencoder_width=0.5,
            learning_rate=2e-3, hard_quantile=0.9, penalty="none",
        ),
        Schedule(steps=450, batch_size=1, folds=2),
    ),
    tiny=(
        # A higher learning rate and more hard examples per step make up for the few steps.
        EfficientAdSettings(
            size=128, teacher="bundled-teacher", pdn="small", width=0.25, autoencoder_width=0.5,
            learning_rate=2e-3, hard_quantile=0.9, penalty="none",
        ),
        Schedule(steps=600, batch_size=1),
    ),
)  # fmt: skip
