"""DeSTSeg: a denoising student and teacher, and a segmentation of where they disagree.

Zhang et al., CVPR 2023; methods.md §5. The student sees a picture damaged with Perlin noise and
learns to give the features that the frozen teacher has of the undamaged one. In the second part of
the same run it is frozen too, and a segmentation network learns to draw the damage. Without the
segmentation network (DeST) the map is the product of the levels' cosine distances.

Shapes: B batch; H, W picture; 3 colour (RGB); h, w cells of a level.
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

from detectors.base import Batch, Detector, Schedule, Scores
from detectors.data.perlin import corrupt
from detectors.models.destseg.segmentation import Segmentation, focal, products
from detectors.networks.corruption import DamageSettings, noise_textures
from detectors.networks.cosine import distance, fused, top_mean
from detectors.networks.denoising_student import Decoder, Student
from pipeline.models.backbone import Levels, Trunk, normalise, trunk_of

LEVELS = ("student_fine", "student_middle", "student_coarse")


class DestSegSettings(DamageSettings):
    """What DeSTSeg may be told."""

    encoder: Literal["own", "teacher"] = Field(
        default="own",
        description="own = the student learns its encoder, as published; teacher = it decodes the "
        "frozen teacher's deepest level, which takes far fewer steps",
    )
    segmentation: bool = Field(
        default=True,
        description="train and use the segmentation network; false = the product map (DeST)",
    )
    student_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="share of the steps that train the student; the rest is the segmentation's",
    )
    student_rate: float = Field(
        default=0.4,
        gt=0,
        description="learning rate of the student, whose loss is a sum over the batch",
    )
    blocks_rate: float = Field(
        default=0.1, gt=0, description="learning rate of the segmentation's residual blocks"
    )
    head_rate: float = Field(
        default=0.01, gt=0, description="learning rate of the rest of the segmentation"
    )


class DestSeg(Detector):
    """A frozen teacher, a student, and (unless switched off) a segmentation network."""

    settings: DestSegSettings

    def __init__(
        self, settings: DestSegSettings, teacher: Trunk, textures_K3SS: Tensor | None = None
    ) -> None:
        super().__init__(settings)
        self.teacher = teacher.freeze()
        channels = teacher.channels
        self.student = Student(channels) if settings.encoder == "own" else Decoder(channels)
        self.segmentation = None
        if settings.segmentation:
            self.segmentation = Segmentation(sum(teacher.channels), teacher.channels[2])
        self.textures_K3SS = textures_K3SS
        self.to(memory_format=torch.channels_last)

    def first_stage(self, step: int, steps: int) -> bool:
        """True while the student trains."""
        if self.segmentation is None:
            return True
        return step < round(steps * self.settings.student_share)

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        clean_B3HW = batch["image"]
        damaged_B3HW, mask_BHW = corrupt(clean_B3HW, self.settings.noise, self.textures_K3SS)
        first = self.first_stage(step, steps)
        self.student.train(self.training and first)  # frozen with its batch norm when it is done
        damaged = normalise(damaged_B3HW)
        if first:
            target = self._target(normalise(clean_B3HW))
            maps = [distance(*pair) for pair in zip(self._student(damaged), target, strict=True)]
            # The sum over the batch, the mean over cells: the published rates are made for it.
            losses = [map_Bhw.mean((1, 2)).sum() for map_Bhw in maps]
            return dict(zip(LEVELS, losses, strict=True))
        assert self.segmentation is not None
        with torch.no_grad():
            seen = products(self._student(damaged), self.teacher(damaged))
        logits_Bhw = self.segmentation(seen).float()
        share_Bhw = F.interpolate(mask_BHW[:, None].float(), logits_Bhw.shape[1:], mode="area")
        truth_Bhw = share_Bhw[:, 0] >= 0.5
        off = (logits_Bhw.sigmoid() - truth_Bhw.float()).abs().mean()
        return {"focal": focal(logits_Bhw, truth_Bhw), "l1": off}

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        """SGD over three groups; a group whose stage it is not has a rate of zero."""
        settings = self.settings

        def of_student(step: int) -> float:
            return float(self.first_stage(step, steps))

        def of_segmentation(step: int) -> float:
            return 1 - of_student(step)

        groups = [{"params": list(self.student.parameters()), "lr": settings.student_rate}]
        factors: list[Callable[[int], float]] = [of_student]
        if self.segmentation is not None:
            blocks, top = self.segmentation.blocks, self.segmentation.top()
            groups.append({"params": list(blocks.parameters()), "lr": settings.blocks_rate})
            groups.append({"params": list(top.parameters()), "lr": settings.head_rate})
            factors += [of_segmentation, of_segmentation]
        optimizer = SGD(groups, lr=settings.student_rate, momentum=0.9, weight_decay=1e-4)
        return optimizer, LambdaLR(optimizer, factors)

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps = self._maps(images_B3HW)
        maps_BHW = maps.get("segmentation", maps["dest"])
        image_B = top_mean(maps_BHW, self.settings.top_pixels, self.settings.size)
        return Scores(image_B, maps_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        return {} if self.segmentation is None else self._maps(images_B3HW)

    def _maps(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        images = normalise(images_B3HW)
        made, target = self._student(images), self.teacher(images)
        levels = [distance(*pair) for pair in zip(made, target, strict=True)]
        maps = {"dest": fused(levels, self.settings.size, self.settings.level_fusion)}
        if self.segmentation is not None:
            share_Bhw = self.segmentation(products(made, target)).float().sigmoid()
            maps["segmentation"] = fused([share_Bhw], self.settings.size, "sum")
        return maps

    def _student(self, normalised_B3HW: Tensor) -> Levels:
        """What the student makes of a picture, by its own encoder or on the teacher's features."""
        if not isinstance(self.student, Decoder):
            return self.student(normalised_B3HW)
        with torch.no_grad():
            coarse_BChw = self.teacher(normalised_B3HW)[2]
        return self.student(coarse_BChw)

    def _target(self, images_B3HW: Tensor) -> Levels:
        with torch.no_grad():
            return self.teacher(images_B3HW)


def build(settings: DestSegSettings, weights: Path | None) -> DestSeg:
    """DeSTSeg on the trunk that `settings.teacher` names; textures are read for training only."""
    textures = noise_textures(settings.noise, settings.textures, settings.size, weights)
    return DestSeg(settings, trunk_of(settings.teacher, weights), textures)


PAPER = DestSegSettings(), Schedule(steps=5000, batch_size=32)
TINY = (
    # Chosen on validation normals and synthetics of rendered products.
    DestSegSettings(
        size=128, teacher="bundled-teacher", encoder="teacher", student_share=0.7, blocks_rate=0.02
    ),
    Schedule(steps=300, batch_size=4),
)
