"""DeSTSeg: a denoising student, a frozen teacher, and a segmentation of their disagreement.

Zhang, Li, Li, Huang, Shan, Chen, CVPR 2023. The student sees an image corrupted with Perlin noise
and learns to reproduce the frozen teacher's features of the clean image. In the second stage of the
same run the student is frozen as well, and a segmentation network learns to segment the corruption.
Without the segmentation network (DeST) the map is the product of the levels' cosine distances.

Shapes: B batch; H, W image; 3 colour (RGB); h, w cells of a level.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, DetectorEntry, Schedule, Scores
from detectors.data.perlin import corrupt
from detectors.data.rotation import rotated
from detectors.models.destseg.segmentation import Segmentation, focal, products
from detectors.networks.corruption import CorruptionSettings, noise_textures
from detectors.networks.cosine import cosine_distance, fuse_levels, top_mean
from detectors.networks.denoising_student import Decoder, Student
from detectors.networks.standardised_trunk import StandardisedTrunk
from pipeline.models.backbone import Levels, Trunk, normalise
from pipeline.models.trunks import AnyTrunk, trunk_of

# Names of the student's loss terms.
LEVELS = ("student_fine", "student_middle", "student_coarse")


class DestSegSettings(CorruptionSettings):
    """Defaults follow the paper and its released code; `noise` needs a folder of textures."""

    encoder: Literal["own", "teacher"] = Field(
        default="own",
        description="own = the student trains its own encoder, as published; teacher = it decodes "
        "the frozen teacher's deepest level, which needs far fewer steps",
    )
    segmentation: bool = Field(
        default=True,
        description="train and use the segmentation network; false = the product map (DeST) only",
    )
    # 1000 of 5000 steps.
    student_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="share of the steps that train the student; the rest trains the segmentation",
    )
    student_rate: float = Field(
        default=0.4,
        gt=0,
        description="learning rate of the student; its loss is a sum over the batch",
    )
    blocks_rate: float = Field(
        default=0.1, gt=0, description="learning rate of the segmentation's residual blocks"
    )
    head_rate: float = Field(
        default=0.01, gt=0, description="learning rate of the other layers of the segmentation"
    )


class DestSeg(Detector):
    """A frozen teacher, a student, and a segmentation network unless the settings disable it."""

    settings: DestSegSettings

    def __init__(
        self, settings: DestSegSettings, teacher: AnyTrunk, textures_K3SS: Tensor | None = None
    ) -> None:
        super().__init__(settings)
        self.teacher = StandardisedTrunk(teacher) if settings.standardise else teacher.freeze()
        channels, signed = teacher.channels, not isinstance(self.teacher, Trunk)
        student = Student if settings.encoder == "own" else Decoder
        self.student = student(channels, signed)
        self.segmentation = None
        if settings.segmentation:
            self.segmentation = Segmentation(sum(channels), channels[2])
        # Not a buffer: only training needs textures, so checkpoints do not store them.
        self.textures_K3SS = textures_K3SS
        self.to(memory_format=torch.channels_last)

    def first_stage(self, step: int, steps: int) -> bool:
        """True in the steps that train the student."""
        if self.segmentation is None:
            return True
        # Both stages fit any number of steps; the paper trains 1000 and 4000.
        return step < round(steps * self.settings.student_share)

    def prepare(self, normals: Batches) -> None:
        """With `standardise`, measure the teacher's channels."""
        if isinstance(self.teacher, StandardisedTrunk):
            self.teacher.measure(normals)

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        clean_B3HW = batch["image"]
        if self.training:
            (clean_B3HW,) = rotated(self.settings.rotations, clean_B3HW)
        noise = self.settings.noise_used
        corrupted_B3HW, mask_BHW = corrupt(clean_B3HW, noise, self.textures_K3SS)
        # The trainer knows one loss; the stage depends on the step.
        first = self.first_stage(step, steps)
        # In the second stage the student's batch norm statistics are frozen, too.
        self.student.train(self.training and first)
        corrupted = normalise(corrupted_B3HW)
        if first:
            target = self._target(normalise(clean_B3HW))
            maps = [
                cosine_distance(*pair)
                for pair in zip(self._student(corrupted), target, strict=True)
            ]
            # Sum over the batch, mean over cells: the published learning rates assume this.
            losses = [map_Bhw.mean((1, 2)).sum() for map_Bhw in maps]
            return dict(zip(LEVELS, losses, strict=True))
        assert self.segmentation is not None
        with torch.no_grad():
            # Unlike in the first stage, both networks see the corrupted image, as at test time.
            inputs = products(self._student(corrupted), self.teacher(corrupted))
        logits_Bhw = self.segmentation(inputs).float()
        # The mask at the resolution of the logits, resized as in the released code: bilinearly,
        # so of the 4 x 4 pixels of a cell the inner four decide, at least two of which count.
        share_B1hw = F.interpolate(
            mask_BHW[:, None].float(), logits_Bhw.shape[1:], mode="bilinear", align_corners=False
        )
        truth_Bhw = share_B1hw[:, 0] >= 0.5
        l1 = (logits_Bhw.sigmoid() - truth_Bhw.float()).abs().mean()
        return {"focal": focal(logits_Bhw, truth_Bhw), "l1": l1}

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        """SGD over three parameter groups; outside its stage a group has learning rate 0."""
        settings = self.settings

        def student_factor(step: int) -> float:
            return float(self.first_stage(step, steps))

        def segmentation_factor(step: int) -> float:
            return 1 - student_factor(step)

        # One group per learning rate: student, residual blocks, and the rest of the segmentation.
        groups = [{"params": list(self.student.parameters()), "lr": settings.student_rate}]
        factors: list[Callable[[int], float]] = [student_factor]
        if self.segmentation is not None:
            blocks, top = self.segmentation.blocks, self.segmentation.top()
            groups.append({"params": list(blocks.parameters()), "lr": settings.blocks_rate})
            groups.append({"params": list(top.parameters()), "lr": settings.head_rate})
            factors += [segmentation_factor, segmentation_factor]
        # Momentum and weight decay of the released code.
        optimizer = SGD(groups, lr=settings.student_rate, momentum=0.9, weight_decay=1e-4)
        return optimizer, LambdaLR(optimizer, factors)

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps = self._maps(images_B3HW)
        # With a segmentation network, its output is the anomaly map.
        maps_BHW = maps.get("segmentation", maps["dest"])
        image_B = top_mean(maps_BHW, self.settings.top_pixels, self.settings.size)
        return Scores(image_B, maps_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        return {} if self.segmentation is None else self._maps(images_B3HW)

    def _maps(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """`dest`, the product map, and `segmentation` if there is one; each (B, size, size)."""
        images = normalise(images_B3HW)
        decoded, target = self._student(images), self.teacher(images)
        levels = [cosine_distance(*pair) for pair in zip(decoded, target, strict=True)]
        chosen = self.settings.mapped(levels)
        maps = {"dest": fuse_levels(chosen, self.settings.size, self.settings.level_fusion)}
        if self.segmentation is not None:
            share_Bhw = self.segmentation(products(decoded, target)).float().sigmoid()
            # A single level: the fusion only upsamples.
            maps["segmentation"] = fuse_levels([share_Bhw], self.settings.size, "sum")
        return maps

    def _student(self, normalised_B3HW: Tensor) -> Levels:
        """The student's levels, with its own encoder or on top of the teacher's features."""
        if not isinstance(self.student, Decoder):
            return self.student(normalised_B3HW)
        with torch.no_grad():
            # The teacher is frozen, so no graph is needed below the decoder.
            coarse_BChw = self.teacher(normalised_B3HW)[2]
        return self.student(coarse_BChw)

    def _target(self, images_B3HW: Tensor) -> Levels:
        """The teacher's levels of normalised images."""
        with torch.no_grad():
            return self.teacher(images_B3HW)


def build(settings: DestSegSettings, weights: Path | None) -> DestSeg:
    """DeSTSeg on the trunk that `settings.teacher` names; textures are read for training only."""
    textures = noise_textures(settings.noise_used, settings.textures, settings.size, weights)
    return DestSeg(settings, trunk_of(settings.teacher, weights), textures)


ENTRY = DetectorEntry(
    name="destseg",
    summary="denoising student-teacher with a segmentation of where they disagree (DeSTSeg)",
    citation="X. Zhang, S. Li, X. Li, P. Huang, J. Shan, T. Chen: DeSTSeg: Segmentation Guided "
    "Denoising Student-Teacher for Anomaly Detection. CVPR 2023.",
    build=build,
    paper=(DestSegSettings(), Schedule(steps=5000, batch_size=32)),
    cpu=(
        # 250 steps of the student, 90 of the segmentation.
        DestSegSettings(
            size=192, teacher="efficientnet-lite0", standardise=True, encoder="teacher",
            student_share=0.735, blocks_rate=0.02, noise="perlin_self",
        ),
        Schedule(steps=340, batch_size=4, folds=2),
    ),
    tiny=(
        # Chosen on validation normals and synthetic anomalies of rendered products.
        DestSegSettings(
            size=128, teacher="bundled-teacher", encoder="teacher", student_share=0.7,
            blocks_rate=0.02, noise="perlin_self",
        ),
        Schedule(steps=300, batch_size=4),
    ),
)  # fmt: skip
