"""One image score from two: a map's, and the distance of pooled features in the best way.

    scores = TwoScores(channels=(40, 112), grids=(1, 2, 3))
    scores.fit(levels_of, normals)                      # Gaussians (`PooledDistance`)
    parts_BP = scores.parts(map_B, levels)              # the map's score, a distance per way
    scores.fuse(normals_NP, pairs_MP, labels_M)         # scales; the best way and weight
    image_B = scores(map_B, levels)                     # only the chosen distance is computed

Which way of pooling, and how much either score counts is chosen on synthetic anomalies.

Shapes: B batch; N normals; M samples; J ways to pool; P = 1 + J parts.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.fusion import Rule, choose, fused, scales
from detectors.networks.mahalanobis import Covariance
from detectors.networks.patch_memory import Pair
from detectors.networks.pooled_distance import PooledDistance


class TwoScores(nn.Module):
    """`mean_P` and `deviation_P` standardise the parts; `way` is the place of the chosen one.

    `weight` is that of the map's score; it begins at `usual`. Without `tune` nothing is chosen.
    """

    mean_P: Tensor
    deviation_P: Tensor
    way: Tensor
    weight: Tensor

    def __init__(
        self,
        channels: Sequence[int],
        grids: Sequence[int],
        *,
        covariance: Covariance = "ledoit_wolf",
        rule: Rule = "max",
        usual: float = 0.5,
        tune: bool = True,
    ) -> None:
        super().__init__()
        self.rule: Rule = rule
        self.usual, self.tune = usual, tune
        self.distances = PooledDistance(channels, grids, covariance=covariance)
        parts = 1 + len(self.distances.ways)
        self.register_buffer("mean_P", torch.zeros(parts))
        self.register_buffer("deviation_P", torch.ones(parts))
        self.register_buffer("way", torch.zeros((), dtype=torch.int64))
        self.register_buffer("weight", torch.tensor(usual))
        # Again as a number: an exporter cannot index by what a buffer holds.
        self.chosen = 0

    def fit(self, levels_of: Callable[[Tensor], Pair], normals: Batches) -> None:
        """The Gaussians of the training normals."""
        self.distances.fit(levels_of, normals)

    def parts(self, map_B: Tensor, levels: Pair) -> Tensor:
        """The score of the map and the distances in all ways, (B, P)."""
        return torch.cat((map_B[:, None], self.distances(levels)), 1)

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor) -> None:
        """Standardise the parts on held-out normals; choose way and weight on synthetic anomalies.

        The simplest way and the weight nearest to the usual one win unless another separates
        clearly better (`fusion.MARGIN`).
        """
        # A run that fuses again must not keep an earlier choice.
        self._choose(0)
        self.weight.fill_(self.usual)
        if len(normals_NP):
            mean_P, deviation_P = scales(normals_NP)
            self.mean_P.copy_(mean_P)
            self.deviation_P.copy_(deviation_P)
        if not (self.tune and len(normals_NP) and (labels_M == 1).any()):
            return
        normals_NP, pairs_MP = (
            (parts.to(self.mean_P) - self.mean_P) / self.deviation_P
            for parts in (normals_NP, pairs_MP)
        )
        ways = range(len(self.distances.ways))
        pairs = ((_two(normals_NP, way), _two(pairs_MP, way)) for way in ways)
        chosen, weight = choose(pairs, labels_M, self.rule, self.usual, len(normals_NP))
        self._choose(chosen)
        self.weight.fill_(weight)

    def combined(self, parts_BP: Tensor) -> Tensor:
        """Image scores (B,) of parts."""
        scaled_BP = (parts_BP - self.mean_P) / self.deviation_P
        return fused(_two(scaled_BP, self.chosen), self.weight, self.rule)

    def forward(self, map_B: Tensor, levels: Pair) -> Tensor:
        """Image scores (B,) from the map's score and the levels that are pooled."""
        two = (map_B, self.distances.one(levels, self.chosen))
        parts_2 = torch.tensor((0, 1 + self.chosen), device=map_B.device)
        scaled_B2 = (torch.stack(two, 1) - self.mean_P[parts_2]) / self.deviation_P[parts_2]
        return fused(scaled_B2, self.weight, self.rule)

    def _choose(self, way: int) -> None:
        self.way.fill_(way)
        self.chosen = way

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.chosen = int(self.way)


def _two(scaled_NP: Tensor, way: int) -> Tensor:
    """The score of the map and the distance of one way, (N, 2)."""
    return torch.stack((scaled_NP[:, 0], scaled_NP[:, 1 + way]), 1)
