"""PUAD and LA-EAD without training: both scores from the features of a frozen ImageNet backbone.

Both methods add two scores: the worst cell of a map, and the Mahalanobis distance of pooled
features. In the papers trained networks supply map and features, which takes a GPU and hours. Here
the map is the distance to the nearest patch of the normals (`detectors.networks.patch_memory`), and
the features are the backbone's own (`detectors.networks.pooled_distance`). Which levels and regions
are pooled, and how much either score counts, is chosen on synthetic anomalies
(`detectors.networks.two_scores`).

Shapes: B batch; N normals; M samples; P parts: the map's score, then a distance per way to pool;
3 colour; H, W image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Batches, Detector, Scores
from detectors.models.puad.settings import PuadSettings
from detectors.networks.frozen_levels import FrozenLevels
from detectors.networks.patch_memory import Pair, PatchMemory
from detectors.networks.two_scores import TwoScores
from pipeline.models.trunks import AnyTrunk


class FrozenPuad(Detector):
    """Frozen trunk, patch memory, and the score of both."""

    exact = True
    settings: PuadSettings

    def __init__(self, settings: PuadSettings, trunk: AnyTrunk) -> None:
        super().__init__(settings)
        self.features = FrozenLevels(trunk)
        channels = self.features.middle, self.features.coarse
        self.memory = PatchMemory(channels, settings.bank)
        self.scores = TwoScores(
            channels, settings.regions, covariance=settings.covariance, rule=settings.fusion,
            usual=settings.fusion_weight, tune=settings.tune_fusion,
        )  # fmt: skip

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Fill the memory."""
        images = sum(len(batch["image"]) for batch in normals)
        self.memory.fill((self.features(b["image"], keep=True) for b in normals), images)

    @torch.no_grad()
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """The Gaussians of the training normals."""
        self.scores.fit(lambda images: self.features(images, keep=True), train)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        levels = self.features(images_B3HW)
        return self.scores.parts(_worst(self._map(levels)), levels)

    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        self.scores.fuse(normals_NP, pairs_MP, labels_M)

    def combined(self, parts_BP: Tensor) -> Tensor:
        return self.scores.combined(parts_BP)

    def forward(self, images_B3HW: Tensor) -> Scores:
        levels = self.features(images_B3HW)
        map_Bhw = self._map(levels)
        image_B = self.scores(_worst(map_Bhw), levels)
        maps_B1HW = F.interpolate(
            map_Bhw[:, None], images_B3HW.shape[2:], mode="bilinear", align_corners=False
        )
        return Scores(image_B, maps_B1HW[:, 0])

    def inherit(self, other: Detector) -> None:
        if isinstance(other, FrozenPuad):
            self.features.share(other.features)

    def _map(self, levels: Pair) -> Tensor:
        """Distance of every cell of stride 8 to the nearest patch of a normal, (B, h, w)."""
        return self.memory(*levels)


def _worst(map_Bhw: Tensor) -> Tensor:
    """The score of a map, (B,)."""
    return map_Bhw.amax((1, 2))
