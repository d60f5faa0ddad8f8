"""GLCF: compares local appearance and global semantics of an image with their reconstructions.

Yao, Yu, Luo, Qiang, Luo, Zhang, arXiv 2303.05768. A frozen pyramid F of the image passes a
bottleneck. From there one decoder rebuilds F from the global semantics (G, correspondence), one
estimates F from the local tokens (L), and one estimates G (P). F - L is large at local anomalies,
G - P at logical ones. Details that the paper leaves open follow its released code of June 2023.

Shapes: B batch; H, W image, both `size`; h, w cells of a level; C channels; K maps (branch times
level: local fine to coarse, then global).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, DetectorEntry, Schedule, Scores, View
from detectors.models.glcf.fusion import (
    best_weights,
    candidate_weights,
    gaussian_smoothed,
    map_covariances,
    stated_weights,
)
from detectors.models.glcf.networks import Decoder, PatchEmbedding, SemanticAggregation, as_cells
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.pyramids import Pyramid, StandardisedPyramid, pyramid_of
from pipeline.models.backbone import normalise

# The compared levels, of stride 4, 8 and 16.
Three = tuple[Tensor, Tensor, Tensor]
LEVELS = ("fine", "middle", "coarse")
BRANCHES = ("local", "global")
# The image size to which `sigma` refers.
STATED_PX = 224


class Glcf(Detector):
    """The detector. The image score is the standard deviation of the fused map, as in the paper.

    `mean_K` and `deviation_K` standardise the maps, `weight_K` are their fusion weights.
    """

    settings: GlcfSettings
    mean_K: Tensor
    deviation_K: Tensor
    weight_K: Tensor

    def __init__(self, settings: GlcfSettings, pyramid: Pyramid) -> None:
        super().__init__(settings)
        # Tokens per side: the deepest level has stride 32.
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

        # Phi_G, Psi_L and Psi_G of the paper: equal architecture, separate weights.
        self.correspondence, self.local, self.estimate = decoder(), decoder(), decoder()
        maps = len(BRANCHES) * len(LEVELS)
        self.register_buffer("mean_K", torch.zeros(maps))
        self.register_buffer("deviation_K", torch.ones(maps))
        self.register_buffer("weight_K", torch.from_numpy(self._stated()).float())
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """With `standardise`: measure mean and deviation of the teacher's channels."""
        if isinstance(self.pyramid, StandardisedPyramid):
            self.pyramid.measure(normals)

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        f, g, local, estimate = self._networks(self._inputs(batch))
        # The released code stops no gradient here: G also moves towards its estimate.
        g_target = g
        if self.settings.detach_global_target:
            g_target = (g[0].detach(), g[1].detach(), g[2].detach())
        parts = {
            "correspondence": (self._correspondence_target(batch, f), g),
            "local": (f, local),
            "global": (g_target, estimate),
        }
        # Mean squared error per level, L = lambda_1 L_corr + lambda_2 L_L + lambda_3 L_G.
        return {
            f"{name}_{level}": weight * F.mse_loss(decoded.float(), target.float())
            for (name, pair), weight in zip(parts.items(), self.settings.loss_weights, strict=True)
            for level, target, decoded in zip(LEVELS, *pair, strict=True)
        }

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate = self.settings.learning_rate
        # Betas and weight decay of the released code.
        optimizer = AdamW(trained, lr=rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
        drop = self.settings.drop_at * steps
        return optimizer, LambdaLR(optimizer, lambda step: 1.0 if step < drop else 0.1)

    @torch.no_grad()
    def calibrate(self, train: Batches, validation: Batches) -> None:
        """Mean and deviation of every map: averages over normals of the per-image values."""
        # Two scalars per map and image, averaged over the images.
        means, deviations = [], []
        for batch in train if self.settings.statistics == "train" else validation:
            maps_BKHW = self._maps(batch["image"]).double()
            means.append(maps_BKHW.mean((2, 3)))
            deviations.append(maps_BKHW.std((2, 3), correction=0))
        self.mean_K.copy_(torch.cat(means).mean(0))
        # A map that is constant on all normals must not cause a division by zero.
        self.deviation_K.copy_(torch.cat(deviations).mean(0).clamp_min(1e-12))
        self.weight_K.copy_(torch.from_numpy(self._stated()))

    @torch.no_grad()
    def tune(self, normals: Batches, pairs: Batches) -> None:
        """With `weights: calibrated`, choose the weights with the best validation AUROC.

        The AUROC compares synthetic anomalies with the normals. Controls count as normals. The
        stated weights win among equally good ones.
        """
        if self.settings.weights == "stated":
            return
        # Scores depend on the maps' covariances only, which need far less memory than the maps.
        covariances, labels = [], []
        for batch in [*normals, *pairs]:
            covariances.append(
                map_covariances(self._normalised(batch["edited" if "edited" in batch else "image"]))
            )
            labels.append(batch["label"].cpu().numpy() if "label" in batch
                          else np.zeros(len(covariances[-1]), np.int64))  # fmt: skip
        # An AUROC needs both classes.
        if not covariances or len(np.unique(np.concatenate(labels))) < 2:
            return
        # The stated weights come first, so they win ties.
        weights = [self._stated(), *candidate_weights(len(BRANCHES), len(LEVELS))]
        best_K = best_weights(weights, np.concatenate(covariances), np.concatenate(labels))
        self.weight_K.copy_(torch.from_numpy(best_K))

    def forward(self, images_B3HW: Tensor) -> Scores:
        # Not the maximum: the paper scores an image by the deviation of its map.
        fused_BHW = self._weighted(images_B3HW).sum(1)
        return Scores(fused_BHW.flatten(1).std(1, correction=0), fused_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        of_branch = self._weighted(images_B3HW).split(len(LEVELS), 1)
        return {name: maps.sum(1) for name, maps in zip(BRANCHES, of_branch, strict=True)}

    def _inputs(self, batch: Batch) -> Tensor:
        """The images that the networks see in a training step."""
        return batch["image"]

    def _correspondence_target(self, batch: Batch, f: Three) -> Three:
        """The levels that G must rebuild from the global semantics of those images."""
        return f

    def _levels(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The teacher's levels of uint8 images."""
        with torch.no_grad():
            return self.pyramid(normalise(images_B3HW))

    def _networks(self, images_B3HW: Tensor) -> tuple[Three, Three, Three, Three]:
        """F, G, L and P, three levels each, from fine to coarse."""
        levels = self._levels(images_B3HW)
        # Without the bottleneck both branches start from the teacher's deepest level.
        z_global = z_local = levels[3]
        if self.settings.bottleneck:
            tokens = self.aggregation(self.embedding(levels))
            z_global, z_local = (as_cells(z, self.grid) for z in tokens)
        g, estimate = self.correspondence(z_global), self.estimate(z_global)
        return levels[:3], g, self.local(z_local), estimate

    def _maps(self, images_B3HW: Tensor) -> Tensor:
        """The smoothed difference maps (B, K, H, W) at the size of the image.

        Always in float32: G and its estimate are so close to each other that bfloat16 rounding is
        as large as the differences between images.
        """
        kind = images_B3HW.device.type
        # Re-enter with autocast off.
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._maps(images_B3HW)
        f, g, local, estimate = self._networks(images_B3HW)
        global_pair = (f, g) if self.settings.global_map == "correspondence" else (g, estimate)
        # Mean over channels of the squared difference, upsampled as in the released code.
        side = (self.settings.size, self.settings.size)
        maps = [
            F.interpolate(
                (one - other).square().mean(1, keepdim=True), side,
                mode="bilinear", align_corners=True,
            )
            for pair in ((f, local), global_pair)
            for one, other in zip(*pair, strict=True)
        ]  # fmt: skip
        # Smoothed before statistics and fusion. Both are linear, so this equals smoothing the final
        # map, as the paper describes it.
        return gaussian_smoothed(
            torch.cat(maps, 1), self.settings.sigma * self.settings.size / STATED_PX
        )

    def _normalised(self, images_B3HW: Tensor) -> Tensor:
        """Standardised maps (B, K, H, W)."""
        maps_BKHW = self._maps(images_B3HW)
        return (maps_BKHW - self.mean_K.view(-1, 1, 1)) / self.deviation_K.view(-1, 1, 1)

    def _weighted(self, images_B3HW: Tensor) -> Tensor:
        """Standardised maps times their weights; their sum over K is the fused map."""
        return self._normalised(images_B3HW) * self.weight_K.view(-1, 1, 1)

    def _stated(self) -> np.ndarray:
        """The weights (K,) of the settings."""
        return stated_weights(self.settings.branch_weights, self.settings.scale_weights)


class CleanTargetGlcf(Glcf):
    """GLCF-D: sees synthetic samples, and G must rebuild the clean original.

    Not in the paper: it trains the global branch to correct wrong logic.
    """

    view: View = "sources"

    def _inputs(self, batch: Batch) -> Tensor:
        return batch["edited"]

    def _correspondence_target(self, batch: Batch, f: Three) -> Three:
        fine, middle, coarse, _ = self._levels(batch["original"])
        return fine, middle, coarse


def build(settings: GlcfSettings, weights: Path | None) -> Glcf:
    """GLCF on the pyramid that `settings.teacher` names; randomly initialised without a file."""
    pyramid = pyramid_of(settings.teacher, weights, settings.size)
    return (CleanTargetGlcf if settings.clean_target else Glcf)(settings, pyramid)


ENTRY = DetectorEntry(
    name="glcf",
    summary="rebuilds local appearance and global semantics and compares both (GLCF)",
    citation="H. Yao, W. Yu, W. Luo, Z. Qiang, D. Luo, X. Zhang: Learning Global-Local "
    "Correspondence with Semantic Bottleneck for Logical Anomaly Detection. arXiv 2303.05768.",
    build=build,
    # 500 epochs of about 350 images, which is 44 steps each.
    paper=(GlcfSettings(), Schedule(steps=22_000, batch_size=8)),
    tiny=(
        GlcfSettings(
            size=128, teacher="bundled-teacher", width=96, depth=2, encoder_heads=4,
            decoder_heads=4, blocks=(1, 1), standardise=True, learning_rate=4e-3,
        ),
        Schedule(steps=180, batch_size=4),
    ),
)  # fmt: skip
