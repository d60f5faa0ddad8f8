"""PUAD and LA-EAD without training: both scores from the features of a frozen ImageNet backbone.

Both methods add two scores: the worst cell of a map, and the Mahalanobis distance of pooled
features. In the papers trained networks supply map and features, which takes a GPU and hours. Here
the map is the distance to the nearest patch of the normals (`detectors.networks.patch_memory`), and
the features are the backbone's own (`detectors.networks.pooled_distance`). Which levels and regions
are pooled, and how much either score counts, is chosen on synthetic anomalies.

Shapes: B batch; N normals; M samples; J ways to pool; P = J + 1 parts: the map's score, then a
distance per way; 3 colour; H, W image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Batches, Detector, Scores
from detectors.models.puad.fusion import choose, fused, scales
from detectors.models.puad.settings import PuadSettings
from detectors.networks.frozen_levels import FrozenLevels
from detectors.networks.patch_memory import Pair, PatchMemory
from detectors.networks.pooled_distance import PooledDistance
from pipeline.models.trunks import AnyTrunk


class FrozenPuad(Detector):
    """Frozen trunk, patch memory, pooled distances.

    `mean_P` and `deviation_P` standardise the parts, `way` is the place of the chosen distance, and
    `weight` that of the map's score.
    """

    exact = True
    settings: PuadSettings
    mean_P: Tensor
    deviation_P: Tensor
    way: Tensor
    weight: Tensor

    def __init__(self, settings: PuadSettings, trunk: AnyTrunk) -> None:
        super().__init__(settings)
        self.features = FrozenLevels(trunk)
        channels = self.features.middle, self.features.coarse
        self.memory = PatchMemory(channels, settings.bank)
        self.distances = PooledDistance(channels, settings.regions, covariance=settings.covariance)
        parts = 1 + len(self.distances.ways)
        self.register_buffer("mean_P", torch.zeros(parts))
        self.register_buffer("deviation_P", torch.ones(parts))
        self.register_buffer("way", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weight", torch.tensor(settings.fusion_weight))

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Fill the memory."""
        images = sum(len(batch["image"]) for batch in normals)
        self.memory.fill((self.features(b["image"], keep=True) for b in normals), images)

    @torch.no_grad()
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """The Gaussians of the training normals."""
        self.distances.fit(lambda images: self.features(images, keep=True), train)

    def parts(self, images_B3HW: Tensor) -> Tensor:
        levels = self.features(images_B3HW)
        map_B1 = self._map(levels).amax((1, 2))[:, None]
        return torch.cat((map_B1, self.distances(levels)), 1)

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor) -> None:
        """Standardise the parts on held-out normals; choose way and weight on synthetic anomalies.

        The simplest way and the weight nearest to the settings' win unless another separates
        clearly better (`fusion.MARGIN`).
        """
        # A run that fuses again must not keep an earlier choice.
        self.way.zero_()
        self.weight.fill_(self.settings.fusion_weight)
        if len(normals_NP):
            mean_P, deviation_P = scales(normals_NP)
            self.mean_P.copy_(mean_P)
            self.deviation_P.copy_(deviation_P)
        if not (self.settings.tune_fusion and len(normals_NP) and (labels_M == 1).any()):
            return
        normals_NP, pairs_MP = (
            (parts.to(self.mean_P) - self.mean_P) / self.deviation_P
            for parts in (normals_NP, pairs_MP)
        )
        pairs = (
            (_two(normals_NP, way), _two(pairs_MP, way)) for way in range(len(self.distances.ways))
        )
        way, weight = choose(
            pairs, labels_M, self.settings.fusion, self.settings.fusion_weight, len(normals_NP)
        )
        self.way.fill_(way)
        self.weight.fill_(weight)

    def combined(self, parts_BP: Tensor) -> Tensor:
        scaled_BP = (parts_BP - self.mean_P) / self.deviation_P
        return fused(_two(scaled_BP, int(self.way)), self.weight, self.settings.fusion)

    def forward(self, images_B3HW: Tensor) -> Scores:
        levels = self.features(images_B3HW)
        map_Bhw = self._map(levels)
        # Only the chosen distance is computed.
        place = int(self.way)
        two = (map_Bhw.amax((1, 2)), self.distances.one(levels, place))
        parts_2 = torch.tensor((0, 1 + place), device=images_B3HW.device)
        scaled_B2 = (torch.stack(two, 1) - self.mean_P[parts_2]) / self.deviation_P[parts_2]
        image_B = fused(scaled_B2, self.weight, self.settings.fusion)
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


def _two(scaled_NP: Tensor, way: int) -> Tensor:
    """The score of the map and the distance of one way, (N, 2)."""
    return torch.stack((scaled_NP[:, 0], scaled_NP[:, 1 + way]), 1)
