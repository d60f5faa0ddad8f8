"""GLCF: compares local appearance and global semantics of an image with their reconstructions.

Yao, Yu, Luo, Qiang, Luo, Zhang, arXiv 2303.05768. A frozen pyramid F of the image passes a
bottleneck. From there one decoder rebuilds F from the global semantics (G, correspondence); two
more start from the local tokens: one estimates F (L), the other G (P). F - L is large at local
anomalies. G - P is large at logical ones: P sees the image place by place, while G sees it through
the bottleneck's semantic tokens, which correct what is not normal. Details that the paper leaves
open follow its released code of June 2023. With `regions` (ours) F - G and L - G make a second
image score (`detectors.networks.residual_score`).

Shapes: B batch; H, W image, both `size`; h, w cells of a level; C channels; K maps (branch times
level: local fine to coarse, then global).
"""

from pathlib import Path
from typing import NamedTuple

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
from detectors.models.glcf.rows import as_levels, as_rows
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.feature_cache import FeatureCache
from detectors.networks.mahalanobis import Gaussian
from detectors.networks.pyramids import (
    Levels,
    Pyramid,
    StandardisedPyramid,
    pyramid_of,
)
from detectors.networks.residual_score import Residuals, ResidualScore
from pipeline.models.backbone import normalise

# The compared levels, of stride 4, 8 and 16.
Three = tuple[Tensor, Tensor, Tensor]
LEVELS = ("fine", "middle", "coarse")
BRANCHES = ("local", "global")
# The image size to which `sigma` refers.
STATED_PX = 224


class Seen(NamedTuple):
    """What scores are made of: the maps, what the image contains, L - G, and of cells F - G."""

    maps_BKHW: Tensor
    content_BC: Tensor
    residuals: Residuals


class Glcf(Detector):
    """The detector. `settings.score` says how an image is scored, its map is the fused map.

    `mean_K` and `deviation_K` standardise the maps, `weight_K` are their fusion weights.
    """

    exact = True
    settings: GlcfSettings
    mean_K: Tensor
    deviation_K: Tensor
    weight_K: Tensor
    spread_J: Tensor

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

        # Phi_G, Psi_L and Psi_G of the paper: equal architecture, separate weights. Both Psi read
        # the local tokens.
        self.correspondence, self.local, self.estimate = decoder(), decoder(), decoder()
        self.cache = FeatureCache(settings.cache_teacher_gib)
        maps = len(BRANCHES) * len(LEVELS)
        self.register_buffer("mean_K", torch.zeros(maps))
        self.register_buffer("deviation_K", torch.ones(maps))
        self.register_buffer("weight_K", torch.from_numpy(self._stated()).float())
        # Of what `_statistics` says about an image, each value divided by its spread.
        values = 2 * maps + channels[3]
        self.register_buffer("spread_J", torch.ones(values, dtype=torch.float64))
        self.typical = Gaussian(values)
        self.residual: ResidualScore | None = None
        if settings.regions:
            self.residual = ResidualScore(channels[1:3], settings.regions)
        self.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Measure the teacher's channels with `standardise`, and cache its levels if they fit."""
        if isinstance(self.pyramid, StandardisedPyramid):
            self.pyramid.measure(normals)
        self.cache.clear()
        for batch in normals if self.view == "normals" else ():
            # Not more than the limit is computed in vain.
            if not self.cache.open:
                break
            self.cache.add(batch.get("index"), as_rows(self._levels(batch["image"])))
        self.cache.close()

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
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """Mean and deviation of every map: averages over normals of the per-image values."""
        # Two scalars per map and image, averaged over the images.
        means, deviations, values = [], [], []
        for batch in train if self.settings.statistics == "train" else held_out:
            maps_BKHW, content_BC, _ = self._seen(batch["image"])
            values.append(_statistics(maps_BKHW, content_BC))
            means.append(maps_BKHW.double().mean((2, 3)))
            deviations.append(maps_BKHW.double().std((2, 3), correction=0))
        self.mean_K.copy_(torch.cat(means).mean(0))
        # A map that is constant on all normals must not cause a division by zero.
        self.deviation_K.copy_(torch.cat(deviations).mean(0).clamp_min(1e-12))
        if self.settings.score == "distance":
            values_NJ = torch.cat(values)
            # Shrinkage mixes in a multiple of the identity, so all values need one scale.
            self.spread_J.copy_(values_NJ.std(0, correction=0).clamp_min(1e-6))
            self.typical.fit(values_NJ / self.spread_J, "ledoit_wolf")
        self.weight_K.copy_(torch.from_numpy(self._stated()))
        if self.residual is not None:
            self.residual.fit(lambda images: self._seen(images).residuals, train)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        """The image score, or with calibrated weights what it is made of under any weights."""
        if self.residual is not None:
            seen = self._seen(images_B3HW)
            return self.residual.parts(self._published(seen), seen.residuals)
        if self.settings.score == "distance" or self.settings.weights == "stated":
            return super().parts(images_B3HW)
        # Scores depend on the maps' covariances only, which need far less memory than the maps.
        covariance_BKK = map_covariances(self._normalised(self._maps(images_B3HW)))
        return torch.from_numpy(covariance_BKK).flatten(1).float()

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """With `weights: calibrated`, choose those that separate synthetic anomalies best.

        The stated weights win among equally good ones. With `regions`, choose what is pooled.
        """
        if self.residual is not None:
            self.residual.fuse(normals_NP, pairs_MP, labels_M, kinds_M)
            return
        if normals_NP.shape[1:] != (len(self.weight_K) ** 2,) or not len(pairs_MP):
            return
        covariance_NKK, covariance_MKK = (
            parts.cpu().numpy().reshape(len(parts), len(self.weight_K), -1)
            for parts in (normals_NP, pairs_MP)
        )
        # The stated weights come first, so they win ties.
        weights = [self._stated(), *candidate_weights(len(BRANCHES), len(LEVELS))]
        best_K = best_weights(weights, covariance_NKK, covariance_MKK, labels_M.cpu().numpy())
        self.weight_K.copy_(torch.from_numpy(best_K))

    def combined(self, parts_BP: Tensor) -> Tensor:
        if self.residual is not None:
            return self.residual.combined(parts_BP)
        if parts_BP.shape[1] == 1:
            return super().combined(parts_BP)
        covariance_BKK = parts_BP.unflatten(1, (len(self.weight_K), -1))
        squares_B = torch.einsum("k,bkl,l->b", self.weight_K, covariance_BKK, self.weight_K)
        # Rounding can make the variance of a constant map negative.
        return squares_B.clamp_min(0).sqrt()

    def forward(self, images_B3HW: Tensor) -> Scores:
        seen = self._seen(images_B3HW)
        image_B = self._published(seen)
        if self.residual is not None:
            image_B = self.residual(image_B, seen.residuals)
        return Scores(image_B, self._weighted(seen.maps_BKHW).sum(1))

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        of_branch = self._weighted(self._maps(images_B3HW)).split(len(LEVELS), 1)
        return {name: maps.sum(1) for name, maps in zip(BRANCHES, of_branch, strict=True)}

    def _inputs(self, batch: Batch) -> Levels:
        """The teacher's levels that the networks see in a training step."""
        rows_BN11 = self.cache.get(batch.get("index"))
        if rows_BN11 is None:
            return self._levels(batch["image"])
        return as_levels(rows_BN11, self.pyramid.channels, self.settings.size)

    def _correspondence_target(self, batch: Batch, f: Three) -> Three:
        """The levels that G must rebuild from the global semantics of those images."""
        return f

    def _levels(self, images_B3HW: Tensor) -> Levels:
        """The teacher's levels of uint8 images."""
        with torch.no_grad():
            return self.pyramid(normalise(images_B3HW))

    def _networks(self, levels: Levels) -> tuple[Three, Three, Three, Three]:
        """F, G, L and P, three levels each, from fine to coarse."""
        return self._decoded(levels, *self._tokens(levels))

    def _tokens(self, levels: Levels) -> tuple[Tensor, Tensor]:
        """z_global and z_local, (B, C, g, g)."""
        if not self.settings.bottleneck:
            # Both branches start from the teacher's deepest level.
            return levels[3], levels[3]
        z_global, z_local = self.aggregation(self.embedding(levels))
        return as_cells(z_global, self.grid), as_cells(z_local, self.grid)

    def _decoded(
        self, levels: Levels, z_global: Tensor, z_local: Tensor
    ) -> tuple[Three, Three, Three, Three]:
        """F, G, L and P from the tokens."""
        g, local = self.correspondence(z_global), self.local(z_local)
        # From the local tokens: an estimate from those that G is made of would say nothing about
        # the image.
        return levels[:3], g, local, self.estimate(z_local)

    def _maps(self, images_B3HW: Tensor) -> Tensor:
        """The smoothed difference maps (B, K, H, W) at the size of the image."""
        return self._seen(images_B3HW).maps_BKHW

    def _published(self, seen: Seen) -> Tensor:
        """The image scores (B,) that `settings.score` names."""
        if self.settings.score == "distance":
            values_BJ = _statistics(seen.maps_BKHW, seen.content_BC) / self.spread_J
            return self.typical(values_BJ)
        # Not the maximum: the paper scores an image by the deviation of its map.
        return self._weighted(seen.maps_BKHW).sum(1).flatten(1).std(1, correction=0)

    def _seen(self, images_B3HW: Tensor) -> Seen:
        """The maps, the mean of the local tokens, and the residuals.

        Always in float32: G and its estimate are so close to each other that bfloat16 rounding is
        as large as the differences between images.
        """
        kind = images_B3HW.device.type
        # Re-enter with autocast off.
        if torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._seen(images_B3HW)
        levels = self._levels(images_B3HW)
        z_global, z_local = self._tokens(levels)
        f, g, local, estimate = self._decoded(levels, z_global, z_local)
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
        sigma = self.settings.sigma * self.settings.size / STATED_PX
        maps_BKHW = gaussian_smoothed(torch.cat(maps, 1), sigma)
        residuals = Residuals((local[1] - g[1], local[2] - g[2]), f[2] - g[2])
        return Seen(maps_BKHW, z_local.mean((2, 3)), residuals)

    def _normalised(self, maps_BKHW: Tensor) -> Tensor:
        """Standardised maps (B, K, H, W)."""
        return (maps_BKHW - self.mean_K.view(-1, 1, 1)) / self.deviation_K.view(-1, 1, 1)

    def _weighted(self, maps_BKHW: Tensor) -> Tensor:
        """Standardised maps times their weights; their sum over K is the fused map."""
        return self._normalised(maps_BKHW) * self.weight_K.view(-1, 1, 1)

    def _stated(self) -> np.ndarray:
        """The weights (K,) of the settings."""
        return stated_weights(self.settings.branch_weights, self.settings.scale_weights)


class CleanTargetGlcf(Glcf):
    """GLCF-D: sees synthetic samples, and G must rebuild the clean original.

    Not in the paper: it trains the global branch to correct wrong logic.
    """

    view: View = "sources"

    def _inputs(self, batch: Batch) -> Levels:
        return self._levels(batch["edited"])

    def _correspondence_target(self, batch: Batch, f: Three) -> Three:
        fine, middle, coarse, _ = self._levels(batch["original"])
        return fine, middle, coarse


def _statistics(maps_BKHW: Tensor, content_BC: Tensor) -> Tensor:
    """What the distance compares (B, J), float64: how large the errors are, and what there is.

    The logarithms of the maps' means and deviations, because these are scales, and the content.
    """
    exact_BKHW = maps_BKHW.double()
    scales_BJ = torch.cat([exact_BKHW.mean((2, 3)), exact_BKHW.std((2, 3), correction=0)], 1)
    # A map without any error has no logarithm.
    return torch.cat([scales_BJ.clamp_min(1e-12).log(), content_BC.double()], 1)


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
    # On this backbone the global branch tells more than the paper's weights let through.
    cpu=(
        GlcfSettings(
            size=192, teacher="efficientnet-lite0", width=96, depth=2, encoder_heads=4,
            decoder_heads=4, blocks=(1, 1), standardise=True, learning_rate=2e-3,
            branch_weights=(1, 1), score="distance", regions=(1, 2, 3, 4, 6, 8),
        ),
        Schedule(steps=200, batch_size=4, folds=3, fold_normals=90),
    ),
    tiny=(
        GlcfSettings(
            size=128, teacher="bundled-teacher", width=96, depth=2, encoder_heads=4,
            decoder_heads=4, blocks=(1, 1), standardise=True, learning_rate=4e-3,
        ),
        Schedule(steps=180, batch_size=4),
    ),
)  # fmt: skip
