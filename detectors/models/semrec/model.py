"""SemRec: one student repairs local defects, a second one repairs objects.

Koizumi, Hayami, Watanabe, "Semantic Reconstruction for Unified Detection of Local and Logical
Anomalies". The local branch (DeSTSeg's student) sees an image corrupted with Perlin noise, the
object branch (a U-Net) an image with a synthetic logical anomaly from the dataset version. Both
learn to output the features that a frozen teacher has of the clean original. At test time a
branch's map is the cosine distance between its features and the teacher's features of the same
image; the final map is the sum over the branches.

With `regions` (ours) what repaired features leave over of present ones is a second score
(`detectors.networks.residual_score`).

The paper fixes branches, losses and optimiser. What it leaves open (U-Net, noise, share of clean
images, early stopping, fusion of levels) is a setting, with a default of our own.

Shapes: B batch; H, W image; 3 colour (RGB); h, w cells of a level.
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

from detectors.base import Batch, Batches, Detector, DetectorEntry, Schedule, Scores, View
from detectors.data.perlin import corrupt
from detectors.data.rotation import rotated
from detectors.data.source_sampler import SourceSettings
from detectors.networks.corruption import LEVELS, CorruptionSettings, noise_textures
from detectors.networks.cosine import cosine_distance, fuse_levels, top_mean, unit_length
from detectors.networks.denoising_student import Decoder, Student
from detectors.networks.remembered import Remembered
from detectors.networks.residual_score import Grids, Residuals, ResidualScore
from detectors.networks.standardised_trunk import StandardisedTrunk
from detectors.networks.unet import Skips, Stride, UNet
from pipeline.models.backbone import Levels, Trunk, normalise
from pipeline.models.trunks import AnyTrunk, trunk_of

# With `branch_norm: val_quantile` these quantiles of a branch's map become 0 and 0.1, as in
# EfficientAD.
QUANTILES = (0.9, 0.995)


class SemRecSettings(CorruptionSettings, SourceSettings):
    """Defaults are the paper's, or ours where it is silent."""

    branches: Literal["both", "local", "object"] = Field(
        default="both", description="which branches to train; a single one is an ablation"
    )
    inputs: Literal["separate", "shared"] = Field(
        default="separate",
        description="separate = the local branch sees the corrupted original, the object branch "
        "the edited image; shared = both see the edited image with corruption on top",
    )
    encoders: Literal["own", "teacher"] = Field(
        default="own",
        description="own = each branch trains its own encoder, as published; teacher = both decode "
        "the frozen teacher's deepest level without skips, which needs far fewer steps",
    )
    skips: Skips = Field(
        default="all",
        description="skip connections of the U-Net: all = strides 4, 8 and 16; deep = 8 and 16; "
        "none",
    )
    # The paper does not state the widths of its U-Net.
    unet_base: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="channels of the U-Net's first block; null = half of the teacher's first level",
    )
    unet_stride: Stride = Field(
        default=1,
        description="stride of the U-Net's first block: 1 = at the image's resolution; 2 = 2 x 2 "
        "pixels as channels, which takes two thirds of the time",
    )
    mask_weight: float = Field(
        default=1.0,
        gt=0,
        description="weight of corrupted or edited pixels in the loss, relative to the others",
    )
    branch_norm: Literal["none", "val_quantile"] = Field(
        default="none",
        description="val_quantile = scale the branches' maps by their quantiles on validation "
        "normals before they are added",
    )
    learning_rate: float = Field(default=1e-4, gt=0, description="learning rate of Adam")
    rate: Literal["constant", "cosine"] = Field(
        default="constant",
        description="learning rate schedule: cosine = warm-up over a tenth of the steps, then a "
        "decay to 0, for short runs",
    )
    # Not in the paper.
    regions: Grids = ()

    def sources(self) -> SourceSettings:
        """The settings of the sampler."""
        return self


class SemRec(Detector):
    """A frozen teacher and two students, `local` and `object`.

    `ranges_22` holds two quantiles per branch (rows: local, object), for `branch_norm`.
    """

    view: View = "sources"
    settings: SemRecSettings
    ranges_22: Tensor

    def __init__(
        self, settings: SemRecSettings, teacher: AnyTrunk, textures_K3SS: Tensor | None = None
    ) -> None:
        super().__init__(settings)
        self.teacher = StandardisedTrunk(teacher) if settings.standardise else teacher.freeze()
        branches: dict[str, nn.Module] = {}
        shared_encoder = settings.encoders == "teacher"
        channels, signed = teacher.channels, not isinstance(self.teacher, Trunk)
        if settings.branches != "object":
            student = Decoder if shared_encoder else Student
            branches["local"] = student(channels, signed)
        if settings.branches != "local":
            # Base 32 with a ResNet-18 teacher, whose first level has 64 channels.
            base = settings.unet_base or channels[0] // 2
            branches["object"] = (
                Decoder(channels, signed)
                if shared_encoder
                else UNet(base, channels, settings.skips, signed, settings.unet_stride)
            )
        self.branches = nn.ModuleDict(branches)
        self.register_buffer("ranges_22", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        self.residual: ResidualScore | None = None
        if settings.regions:
            self.residual = ResidualScore(channels[1:], settings.regions)
            # Distances under a narrow covariance amplify rounding.
            self.exact = True
        # Not buffers: only training needs textures and the teacher's levels of the originals, so
        # checkpoints do not store them.
        self.textures_K3SS = textures_K3SS
        self.targets = Remembered()
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Remember the trunk's levels; with `standardise`, measure its channels."""
        # Turned images are new ones, and a GPU computes faster than this looks up.
        if self.settings.rotations == "none" and not next(self._trunk.parameters()).is_cuda:
            for batch in normals:
                keys = self.targets.keys(batch["image"])
                if self.targets.get(keys) is None:
                    self.targets.add(keys, self._trunk(normalise(batch["image"])))
                # Full: the others are computed whenever they are needed.
                if self.targets.get(keys) is None:
                    break
        if isinstance(self.teacher, StandardisedTrunk):
            self.teacher.measure(normals, self._raw)

    def inherit(self, other: Detector) -> None:
        if isinstance(other, SemRec):
            self.targets = other.targets

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        clean_B3HW, edited_B3HW, edit_BHW = batch["original"], batch["edited"], batch["mask"]
        if self.training:
            clean_B3HW, edited_B3HW, edit_BHW = rotated(
                self.settings.rotations, clean_B3HW, edited_B3HW, edit_BHW
            )
        # Both branches have the same target, the teacher's features of the clean original.
        target = self._target(clean_B3HW)
        # The object branch alone on separate inputs needs no corruption, and draws none.
        noisy_B3HW, noise_BHW = clean_B3HW, torch.zeros_like(edit_BHW, dtype=torch.bool)
        if "local" in self.branches or self.settings.inputs == "shared":
            source = edited_B3HW if self.settings.inputs == "shared" else clean_B3HW
            noise = self.settings.noise_used
            noisy_B3HW, noise_BHW = corrupt(source, noise, self.textures_K3SS)
        # Input and changed pixels of either branch.
        if self.settings.inputs == "shared":
            both_BHW = noise_BHW | edit_BHW.bool()
            inputs = {"local": (noisy_B3HW, both_BHW), "object": (noisy_B3HW, both_BHW)}
        else:
            inputs = {"local": (noisy_B3HW, noise_BHW), "object": (edited_B3HW, edit_BHW)}
        losses = {}
        for name, branch in self.branches.items():
            images_B3HW, changed_BHW = inputs[name]
            decoded = self._decoded(branch, normalise(images_B3HW))
            for level, one, other in zip(LEVELS, decoded, target, strict=True):
                # Equal weights for all levels and branches. A mean over the batch, unlike
                # DeSTSeg's sum, which belongs to its SGD rates.
                losses[f"{name}_{level}"] = self._mean(cosine_distance(one, other), changed_BHW)
        return losses

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        # Adam without weight decay. The branches share no parameters, so training them together
        # equals training them one by one.
        parameters = self.branches.parameters()
        optimizer = Adam(parameters, lr=self.settings.learning_rate, fused=True)
        if self.settings.rate == "constant":
            return optimizer, LambdaLR(optimizer, lambda step: 1.0)
        return optimizer, LambdaLR(optimizer, lambda step: cosine_rate(step, steps))

    @torch.no_grad()
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """With `branch_norm: val_quantile` the quantiles of each branch's map, and with `regions`
        the Gaussians."""
        if self.residual is not None:
            self.residual.fit(lambda images: self._seen(images)[1], train)
        if self.settings.branch_norm == "none":
            return
        values: dict[str, list[np.ndarray]] = {name: [] for name in self.branches}
        for batch in held_out:
            for name, maps_BHW in self._maps(batch["image"]).items():
                values[name].append(maps_BHW.cpu().numpy().ravel())
        # The rows of a missing branch keep 0 and 1.
        for row, name in enumerate(("local", "object")):
            if name in values:
                low, high = np.quantile(np.concatenate(values[name]), QUANTILES)
                # A constant map has equal quantiles: avoid a division by zero.
                self.ranges_22[row] = torch.tensor([low, max(high, low + 1e-6)])

    def parts(self, images_B3HW: Tensor) -> Tensor:
        if self.residual is None:
            return super().parts(images_B3HW)
        maps, residuals = self._seen(images_B3HW)
        return self.residual.parts(self._top(self._sum(maps)), residuals)

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        if self.residual is not None:
            self.residual.fuse(normals_NP, pairs_MP, labels_M, kinds_M)

    def combined(self, parts_BP: Tensor) -> Tensor:
        if self.residual is None:
            return super().combined(parts_BP)
        return self.residual.combined(parts_BP)

    def forward(self, images_B3HW: Tensor) -> Scores:
        maps, residuals = self._seen(images_B3HW)
        maps_BHW = self._sum(maps)
        image_B = self._top(maps_BHW)
        if self.residual is not None:
            image_B = self.residual(image_B, residuals)
        return Scores(image_B, maps_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        # With a single branch, the score map is already the only map.
        if len(self.branches) == 1:
            return {}
        return {n: self._scaled(n, map_BHW) for n, map_BHW in self._maps(images_B3HW).items()}

    def _maps(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        """Each branch's map (B, size, size), not scaled."""
        return self._seen(images_B3HW)[0]

    def _seen(self, images_B3HW: Tensor) -> tuple[dict[str, Tensor], Residuals]:
        """The branches' maps, and what the last branch, `object` if there is one, changes at
        strides 8 and 16."""
        kind = images_B3HW.device.type
        # Re-enter with autocast off.
        if self.exact and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._seen(images_B3HW)
        images = normalise(images_B3HW)
        target = self.teacher(images)
        maps, decoded = {}, target
        for name, branch in self.branches.items():
            # A branch without an encoder of its own continues from the teacher's deepest level.
            decoded = branch(target[2]) if isinstance(branch, Decoder) else branch(images)
            levels = [cosine_distance(*pair) for pair in zip(decoded, target, strict=True)]
            chosen = self.settings.mapped(levels)
            maps[name] = fuse_levels(chosen, self.settings.size, self.settings.level_fusion)
        middle_BChw, coarse_BChw = (residual(target[at], decoded[at]) for at in (1, 2))
        return maps, Residuals((middle_BChw, coarse_BChw), coarse_BChw)

    def _sum(self, maps: dict[str, Tensor]) -> Tensor:
        """The final map, the sum over the branches."""
        return torch.stack([self._scaled(name, map_BHW) for name, map_BHW in maps.items()]).sum(0)

    def _top(self, maps_BHW: Tensor) -> Tensor:
        """The scores (B,) of maps."""
        return top_mean(maps_BHW, self.settings.top_pixels, self.settings.size)

    def _decoded(self, branch: nn.Module, normalised_B3HW: Tensor) -> Levels:
        """A branch's levels, with its own encoder or on top of the teacher's features."""
        if not isinstance(branch, Decoder):
            return branch(normalised_B3HW)
        with torch.no_grad():
            coarse_BChw = self.teacher(normalised_B3HW)[2]
        return branch(coarse_BChw)

    def _scaled(self, name: str, map_BHW: Tensor) -> Tensor:
        """A branch's map on the scale of `branch_norm`."""
        if self.settings.branch_norm == "none":
            return map_BHW
        low, high = self.ranges_22[("local", "object").index(name)]
        return 0.1 * (map_BHW - low) / (high - low)

    def _target(self, images_B3HW: Tensor) -> Levels:
        """The teacher's levels of uint8 originals."""
        levels = self._raw(images_B3HW)
        if isinstance(self.teacher, StandardisedTrunk):
            return self.teacher.standardised(levels)
        return levels

    @torch.no_grad()
    def _raw(self, images_B3HW: Tensor) -> Levels:
        """The trunk's levels of uint8 originals, remembered or computed."""
        if self.targets.known and not torch.compiler.is_compiling():
            known = self.targets.get(self.targets.keys(images_B3HW))
            if known is not None:
                fine, middle, coarse = known
                return fine, middle, coarse
        return self._trunk(normalise(images_B3HW))

    @property
    def _trunk(self) -> AnyTrunk:
        """The teacher before its channels are standardised."""
        teacher = self.teacher
        return teacher.trunk if isinstance(teacher, StandardisedTrunk) else teacher

    def _mean(self, map_Bhw: Tensor, changed_BHW: Tensor) -> Tensor:
        """Mean over batch and cells; changed cells count `mask_weight` times, in proportion."""
        if self.settings.mask_weight == 1:
            return map_Bhw.mean()
        # Share of changed pixels in every cell, and weights from 1 to `mask_weight`.
        share_B1hw = F.interpolate(changed_BHW[:, None].float(), map_Bhw.shape[1:], mode="area")
        weight_Bhw = 1 + (self.settings.mask_weight - 1) * share_B1hw[:, 0]
        return (weight_Bhw * map_Bhw).sum() / weight_Bhw.sum()


def residual(target_BChw: Tensor, decoded_BChw: Tensor) -> Tensor:
    """What is left of the target without its projection on the decoded features, cell by cell.

    The loss leaves the length of decoded features open, so each cell takes the best one.
    """
    unit_BChw = unit_length(decoded_BChw)
    return target_BChw - (target_BChw * unit_BChw).sum(1, keepdim=True) * unit_BChw


def cosine_rate(step: int, steps: int) -> float:
    """Factor on the learning rate: linear warm-up over a tenth of the steps, cosine decay to 0."""
    # Warm-up ends at 1 after a tenth of the steps; the decay starts there.
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def build(settings: SemRecSettings, weights: Path | None) -> SemRec:
    """SemRec on the trunk that `settings.teacher` names; textures are read for training only."""
    textures = noise_textures(settings.noise_used, settings.textures, settings.size, weights)
    return SemRec(settings, trunk_of(settings.teacher, weights), textures)


ENTRY = DetectorEntry(
    name="semrec",
    summary="semantic reconstruction: repairs local defects and objects, trains on a version's "
    "samples (SemRec)",
    citation="K. Koizumi, T. Hayami, H. Watanabe: Semantic Reconstruction for Unified Detection of "
    "Local and Logical Anomalies.",
    build=build,
    paper=(
        SemRecSettings(),
        # The paper stops early on a criterion that it does not name.
        Schedule(
            steps=10_000, batch_size=16, validate_every=250, stop_on="loss", patience=8,
            min_steps=2000,
        ),
    ),
    cpu=(
        # The branch that samples of the version train. Level and top pixels were chosen on a few
        # scenes of parts in a tray, not on any test set.
        SemRecSettings(
            teacher="efficientnet-lite0", standardise=True, branches="object", unet_base=8,
            unet_stride=2, map_levels=("coarse",), top_pixels=1300, learning_rate=2e-3,
            rate="cosine", noise="perlin_self", regions=(1, 2, 3, 4, 6, 8),
        ),
        Schedule(steps=1200, batch_size=4, folds=3, fold_normals=90),
    ),
    tiny=(
        # Chosen on validation normals and synthetic anomalies of rendered products.
        SemRecSettings(
            size=128, teacher="bundled-teacher", encoders="teacher", learning_rate=3e-3,
            rate="cosine", noise="perlin_self",
        ),
        Schedule(steps=300, batch_size=4),
    ),
)  # fmt: skip
