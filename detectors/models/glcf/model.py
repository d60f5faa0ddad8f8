"""GLCF: what each place looks like and what the whole picture means, each rebuilt and compared.

Yao, Yu, Luo, Qiang, Luo, Zhang, arXiv 2303.05768; gaps are settled in methods.md §8. A frozen
pyramid F of the picture passes a bottleneck; from there one network rebuilds F out of the global
meaning (G, correspondence), one estimates F from the local tokens (L), one estimates G (P). Where
F - L is large something local is odd; where G - P is large the logic is.

Shapes: B batch; H, W picture, both `size`; h, w cells of a level; C channels; K maps (branch times
level: local fine to coarse, then global).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, Schedule, Scores, View
from detectors.models.glcf.fusion import candidates, chosen, covariances, smoothed, stated
from detectors.models.glcf.networks import Decoder, PatchEmbedding, SemanticAggregation, as_cells
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.pyramids import Pyramid, StandardisedPyramid, pyramid_of
from pipeline.models.backbone import normalise

Three = tuple[Tensor, Tensor, Tensor]
LEVELS = ("fine", "middle", "coarse")
BRANCHES = ("local", "global")
STATED_PX = 224
"""The size at which `sigma` is stated."""


class Glcf(Detector):
    """The detector. The image score is the standard deviation of the fused map.

    `mean_K` and `deviation_K` are those of the maps of normals, `weight_K` their weights.
    """

    settings: GlcfSettings
    mean_K: Tensor
    deviation_K: Tensor
    weight_K: Tensor

    def __init__(self, settings: GlcfSettings, pyramid: Pyramid) -> None:
        super().__init__(settings)
        self.grid = settings.size // 32
        self.pyramid = StandardisedPyramid(pyramid).freeze() if settings.standardise else pyramid
        channels = pyramid.channels
        if settings.bottleneck:
            self.embedding = PatchEmbedding(channels, settings.width, self.grid, settings.embedded)
            self.aggregation = SemanticAggregation(
                self.grid, channels[3], wiring=settings.aggregation, width=settings.width,
                depth=settings.depth, encoder_heads=settings.encoder_heads,
                decoder_heads=settings.decoder_heads, per_position=settings.tokens_per_position,
            )  # fmt: skip

        def decoder() -> Decoder:
            return Decoder(
                channels, self.grid, up=settings.up, blocks=settings.blocks,
                drop_path=settings.drop_path,
            )  # fmt: skip

        self.correspondence, self.local, self.estimate = decoder(), decoder(), decoder()
        maps = len(BRANCHES) * len(LEVELS)
        self.register_buffer("mean_K", torch.zeros(maps))
        self.register_buffer("deviation_K", torch.ones(maps))
        self.register_buffer("weight_K", torch.from_numpy(self._stated()).float())
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """With `standardise`: mean and deviation of the teacher's channels."""
        if isinstance(self.pyramid, StandardisedPyramid):
            self.pyramid.measure(normals)

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        f, g, local, estimate = self._networks(self._seen(batch))
        meant = g
        if self.settings.detach_global_target:
            meant = (g[0].detach(), g[1].detach(), g[2].detach())
        parts = {
            "correspondence": (self._rebuilt(batch, f), g),
            "local": (f, local),
            "global": (meant, estimate),
        }
        return {
            f"{name}_{level}": weight * F.mse_loss(made.float(), target.float())
            for (name, pair), weight in zip(parts.items(), self.settings.loss_weights, strict=True)
            for level, target, made in zip(LEVELS, *pair, strict=True)
        }

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate = self.settings.learning_rate
        optimizer = AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        drop = self.settings.drop_at * steps
        return optimizer, LambdaLR(optimizer, lambda step: 1.0 if step < drop else 0.1)

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """Per map, the mean over normals of each picture's mean and of its deviation."""
        means, deviations = [], []
        for batch in train if self.settings.statistics == "train" else validation:
            maps_BKHW = self._maps(batch["image"]).double()
            means.append(maps_BKHW.mean((2, 3)))
            deviations.append(maps_BKHW.std((2, 3), correction=0))
        self.mean_K.copy_(torch.cat(means).mean(0))
        self.deviation_K.copy_(torch.cat(deviations).mean(0).clamp_min(1e-12))
        self.weight_K.copy_(torch.from_numpy(self._stated()))

    @torch.no_grad()
    def tune(self, normals: Batches, pairs: Batches) -> None:
        """With `weights: calibrated`: those that rank validation synthetics best over the normals.

        Controls count as normals. Among equally good weights the stated ones are kept.
        """
        if self.settings.weights == "stated":
            return
        found, labels = [], []
        for batch in [*normals, *pairs]:
            found.append(
                covariances(self._normalised(batch["edited" if "edited" in batch else "image"]))
            )
            labels.append(batch["label"].cpu().numpy() if "label" in batch
                          else np.zeros(len(found[-1]), np.int64))  # fmt: skip
        if not found or len(np.unique(np.concatenate(labels))) < 2:
            return
        weights = [self._stated(), *candidates(len(BRANCHES), len(LEVELS))]
        best_K = chosen(weights, np.concatenate(found), np.concatenate(labels))
        self.weight_K.copy_(torch.from_numpy(best_K))

    def forward(self, images_B3HW: Tensor) -> Scores:
        fused_BHW = self._weighted(images_B3HW).sum(1)
        return Scores(fused_BHW.flatten(1).std(1, correction=0), fused_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        of_branch = self._weighted(images_B3HW).split(len(LEVELS), 1)
        return {name: maps.sum(1) for name, maps in zip(BRANCHES, of_branch, strict=True)}

    def _seen(self, batch: Batch) -> Tensor:
        """The images that a training step looks at."""
        return batch["image"]

    def _rebuilt(self, batch: Batch, f: Three) -> Three:
        """What the global meaning of those images is to rebuild."""
        return f

    def _levels(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.no_grad():
            return self.pyramid(normalise(images_B3HW))

    def _networks(self, images_B3HW: Tensor) -> tuple[Three, Three, Three, Three]:
        """F, G, L and P, three levels each, fine to coarse."""
        levels = self._levels(images_B3HW)
        z_global = z_local = levels[3]
        if self.settings.bottleneck:
            tokens = self.aggregation(self.embedding(levels))
            z_global, z_local = (as_cells(z, self.grid) for z in tokens)
        g, estimate = self.correspondence(z_global), self.estimate(z_global)
        return levels[:3], g, self.local(z_local), estimate

    def _maps(self, images_B3HW: Tensor) -> Tensor:
        """The smoothed difference maps (B, K, H, W) at the size of the picture.

        In float32 throughout: G and its estimate come so close to each other that what bfloat16
        rounds away is as large as what tells pictures apart.
        """
        kind = images_B3HW.device.type
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._maps(images_B3HW)
        f, g, local, estimate = self._networks(images_B3HW)
        whole = (f, g) if self.settings.global_map == "correspondence" else (g, estimate)
        side = (self.settings.size, self.settings.size)
        maps = [
            F.interpolate(
                (one - other).square().mean(1, keepdim=True), side,
                mode="bilinear", align_corners=True,
            )
            for pair in ((f, local), whole)
            for one, other in zip(*pair, strict=True)
        ]  # fmt: skip
        return smoothed(torch.cat(maps, 1), self.settings.sigma * self.settings.size / STATED_PX)

    def _normalised(self, images_B3HW: Tensor) -> Tensor:
        maps_BKHW = self._maps(images_B3HW)
        return (maps_BKHW - self.mean_K.view(-1, 1, 1)) / self.deviation_K.view(-1, 1, 1)

    def _weighted(self, images_B3HW: Tensor) -> Tensor:
        return self._normalised(images_B3HW) * self.weight_K.view(-1, 1, 1)

    def _stated(self) -> np.ndarray:
        return stated(self.settings.branch_weights, self.settings.scale_weights)


class CleanTargetGlcf(Glcf):
    """GLCF-D: it sees forged samples, and their global meaning is to rebuild the clean source."""

    view: View = "sources"

    def _seen(self, batch: Batch) -> Tensor:
        return batch["edited"]

    def _rebuilt(self, batch: Batch, f: Three) -> Three:
        fine, middle, coarse, _ = self._levels(batch["original"])
        return fine, middle, coarse


def build(settings: GlcfSettings, weights: Path | None) -> Glcf:
    """GLCF on the pyramid that `settings.teacher` names; random weights without a file."""
    pyramid = pyramid_of(settings.teacher, weights, settings.size)
    return (CleanTargetGlcf if settings.clean_target else Glcf)(settings, pyramid)


PAPER = (GlcfSettings(), Schedule(steps=22_000, batch_size=8))
TINY = (
    GlcfSettings(
        size=128, teacher="bundled-teacher", width=96, depth=2, encoder_heads=4, decoder_heads=4,
        blocks=(1, 1), standardise=True, learning_rate=4e-3,
    ),
    Schedule(steps=180, batch_size=4),
)  # fmt: skip
