"""SemRec: one student mends local damage, a second one mends objects; what they mend is anomalous.

Koizumi, Hayami and Watanabe, "Semantic Reconstruction for Unified Detection of Local and Logical
Anomalies"; methods.md §6, whose numbers stand behind the defaults. The local branch (DeSTSeg's
student) sees a picture damaged with Perlin noise, the object branch (a U-Net) one with a logical
anomaly from the dataset version. Both learn the features that a frozen teacher has of the clean
original. At test time a branch's map is how far its features point away from the teacher's of the
same picture, and the map is the sum over the branches.

Shapes: B batch; H, W picture; 3 colour (RGB); h, w cells of a level.
"""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, Schedule, Scores, View
from detectors.data.perlin import corrupt
from detectors.data.source_sampler import SourceSettings
from detectors.networks.corruption import DamageSettings, noise_textures
from detectors.networks.cosine import distance, fused, top_mean
from detectors.networks.denoising_student import Decoder, Student
from detectors.networks.unet import Skips, UNet
from pipeline.models.backbone import Levels, Trunk, normalise, trunk_of

LEVELS = ("fine", "middle", "coarse")
QUANTILES = (0.9, 0.995)
"""With `branch_norm: val_quantile` a branch's map is 0 and 0.1 at these, as EfficientAD's are."""


class SemRecSettings(DamageSettings, SourceSettings):
    """What SemRec may be told."""

    branches: Literal["both", "local", "object"] = Field(
        default="both", description="which branches there are; one alone is an ablation"
    )
    inputs: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate = the local branch sees noise, the object branch the edit; shared = "
        "both see the edit with noise on top",
    )
    encoders: Literal["own", "teacher"] = Field(
        default="own",
        description="own = each branch learns its encoder, as published; teacher = both decode the "
        "frozen teacher's deepest level without skips, so only decoders train: far fewer steps",
    )
    skips: Skips = Field(
        default="all",
        description="the U-Net's skip connections: strides 4, 8, 16; deep = 8, 16; none",
    )
    unet_base: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="channels of the U-Net's first block; null = half of the teacher's first level",
    )
    mask_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight of the damaged or edited pixels in the loss, against others",
    )
    rotations: bool = Field(
        default=False,
        description="turn each original, edit and mask together by right angles at random; "
        "only where position has no meaning",
    )
    branch_norm: Literal["none", "val_quantile"] = Field(
        default="none",
        description="val_quantile = bring the branches to one scale by quantiles of the maps of "
        "validation normals before they are added",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="of Adam")
    rate: Literal["constant", "cosine"] = Field(
        default="constant",
        description="cosine = rises over a tenth of the steps and falls to nothing, for short runs",
    )

    def sources(self) -> SourceSettings:
        """What the sampler needs to know."""
        return self


class SemRec(Detector):
    """A frozen teacher and two students, `local` and `object`.

    `ranges_22` holds the two quantiles of either branch's map (local, object), for `branch_norm`.
    """

    view: View = "sources"
    settings: SemRecSettings
    ranges_22: Tensor

    def __init__(
        self, settings: SemRecSettings, teacher: Trunk, textures_K3SS: Tensor | None = None
    ) -> None:
        super().__init__(settings)
        self.teacher = teacher.freeze()
        branches: dict[str, nn.Module] = {}
        borrowed = settings.encoders == "teacher"
        if settings.branches != "object":
            channels = teacher.channels
            branches["local"] = Decoder(channels) if borrowed else Student(channels)
        if settings.branches != "local":
            base = settings.unet_base or teacher.channels[0] // 2
            skips = settings.skips
            branches["object"] = (
                Decoder(teacher.channels) if borrowed else UNet(base, teacher.channels, skips)
            )
        self.branches = nn.ModuleDict(branches)
        self.register_buffer("ranges_22", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.textures_K3SS = textures_K3SS
        self.to(memory_format=torch.channels_last)

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        clean_B3HW, edited_B3HW, edit_BHW = batch["original"], batch["edited"], batch["mask"]
        if self.settings.rotations and self.training:
            clean_B3HW, edited_B3HW, edit_BHW = turned(clean_B3HW, edited_B3HW, edit_BHW)
        target = self._target(clean_B3HW)
        noisy_B3HW, noise_BHW = clean_B3HW, torch.zeros_like(edit_BHW, dtype=torch.bool)
        if "local" in self.branches or self.settings.inputs == "shared":
            below = edited_B3HW if self.settings.inputs == "shared" else clean_B3HW
            noisy_B3HW, noise_BHW = corrupt(below, self.settings.noise, self.textures_K3SS)
        if self.settings.inputs == "shared":
            both_BHW = noise_BHW | edit_BHW.bool()
            seen = {"local": (noisy_B3HW, both_BHW), "object": (noisy_B3HW, both_BHW)}
        else:
            seen = {"local": (noisy_B3HW, noise_BHW), "object": (edited_B3HW, edit_BHW)}
        losses = {}
        for name, branch in self.branches.items():
            images_B3HW, changed_BHW = seen[name]
            made = self._made(branch, normalise(images_B3HW))
            for level, one, other in zip(LEVELS, made, target, strict=True):
                losses[f"{name}_{level}"] = self._mean(distance(one, other), changed_BHW)
        return losses

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        parameters = self.branches.parameters()
        optimizer = Adam(parameters, lr=self.settings.learning_rate, fused=True)
        if self.settings.rate == "constant":
            return optimizer, LambdaLR(optimizer, lambda step: 1.0)
        return optimizer, LambdaLR(optimizer, lambda step: cosine_rate(step, steps))

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """The quantiles of the branches' maps of validation normals."""
        if self.settings.branch_norm == "none":
            return
        seen: dict[str, list[np.ndarray]] = {name: [] for name in self.branches}
        for batch in validation:
            for name, maps_BHW in self._maps(batch["image"]).items():
                seen[name].append(maps_BHW.cpu().numpy().ravel())
        for row, name in enumerate(("local", "object")):
            if name in seen:
                low, high = np.quantile(np.concatenate(seen[name]), QUANTILES)
                self.ranges_22[row] = torch.tensor([low, max(high, low + 1e-6)])

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps = [self._scaled(name, map_BHW) for name, map_BHW in self._maps(images_B3HW).items()]
        maps_BHW = torch.stack(maps).sum(0)
        image_B = top_mean(maps_BHW, self.settings.top_pixels, self.settings.size)
        return Scores(image_B, maps_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        if len(self.branches) == 1:
            return {}
        return {n: self._scaled(n, map_BHW) for n, map_BHW in self._maps(images_B3HW).items()}

    def _maps(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Each branch's map (B, size, size) as it comes."""
        images = normalise(images_B3HW)
        target = self.teacher(images)
        maps = {}
        for name, branch in self.branches.items():
            made = branch(target[2]) if isinstance(branch, Decoder) else branch(images)
            levels = [distance(*pair) for pair in zip(made, target, strict=True)]
            maps[name] = fused(levels, self.settings.size, self.settings.level_fusion)
        return maps

    def _made(self, branch: nn.Module, normalised_B3HW: Tensor) -> Levels:
        """What a branch makes of a picture, by its own encoder or on the teacher's features."""
        if not isinstance(branch, Decoder):
            return branch(normalised_B3HW)
        with torch.no_grad():
            coarse_BChw = self.teacher(normalised_B3HW)[2]
        return branch(coarse_BChw)

    def _scaled(self, name: str, map_BHW: Tensor) -> Tensor:
        if self.settings.branch_norm == "none":
            return map_BHW
        low, high = self.ranges_22[("local", "object").index(name)]
        return 0.1 * (map_BHW - low) / (high - low)

    def _target(self, images_B3HW: Tensor) -> Levels:
        with torch.no_grad():
            return self.teacher(normalise(images_B3HW))

    def _mean(self, map_Bhw: Tensor, changed_BHW: Tensor) -> Tensor:
        """Over batch and cells; `mask_weight` weighs cells by how much of them is changed."""
        if self.settings.mask_weight == 1:
            return map_Bhw.mean()
        share_B1hw = F.interpolate(changed_BHW[:, None].float(), map_Bhw.shape[1:], mode="area")
        weight_Bhw = 1 + (self.settings.mask_weight - 1) * share_B1hw[:, 0]
        return (weight_Bhw * map_Bhw).sum() / weight_Bhw.sum()


def cosine_rate(step: int, steps: int) -> float:
    """A factor that rises over the first tenth of the steps and falls along a cosine to 0."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def turned(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Pictures (B, 3, H, H) or masks (B, H, H), each item turned by the same random right angle."""
    quarters_B = torch.randint(0, 4, (len(tensors[0]),), device=tensors[0].device)
    views = [
        torch.stack(
            [item.rot90(int(n), (-2, -1)) for item, n in zip(tensor, quarters_B, strict=True)]
        )
        for tensor in tensors
    ]
    return tuple(
        view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view
        for view in views
    )


def build(settings: SemRecSettings, weights: Path | None) -> SemRec:
    """SemRec on the trunk that `settings.teacher` names; textures are read for training only."""
    textures = noise_textures(settings.noise, settings.textures, settings.size, weights)
    return SemRec(settings, trunk_of(settings.teacher, weights), textures)


PAPER = (
    SemRecSettings(),
    Schedule(
        steps=10_000, batch_size=16, validate_every=250, stop_on="loss", patience=8, min_steps=2000
    ),
)
TINY = (
    # Chosen on validation normals and synthetics of rendered products.
    SemRecSettings(
        size=128, teacher="bundled-teacher", encoders="teacher", learning_rate=3e-3, rate="cosine"
    ),
    Schedule(steps=300, batch_size=4),
)
