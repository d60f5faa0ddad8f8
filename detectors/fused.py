"""Two detectors as one: what either sees counts, on the scale of held-out normals.

    detector = Fused(parts, laead)

Both are fitted on the same images; only the second may train a network, and what it trains on is
what both are given. Their image scores are standardised on normals that no fit has seen, and the
larger one counts. How much either counts is chosen on held-out synthetic anomalies; without them
both count alike. Maps are fused in the same way, on the scale of their peaks on normals. Reasons
are those of the first.

Shapes: B batch; N normals; M samples; P parts of both scores, those of the first before the others;
H, W image; 3 colour (RGB).
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from detectors.base import Batch, Batches, Detector, Reason, Region, Scores
from detectors.networks.fusion import choose, fused, scales

# Normals whose maps set the scale of both maps.
MAPS = 32


class Fused(Detector):
    """`mean_2` and `deviation_2` standardise both image scores, `map_mean_2` and
    `map_deviation_2` the peaks of both maps.

    `weight` is that of the first detector, `columns` the number of its parts.
    """

    mean_2: Tensor
    deviation_2: Tensor
    map_mean_2: Tensor
    map_deviation_2: Tensor
    weight: Tensor
    columns: Tensor

    def __init__(self, first: Detector, second: Detector) -> None:
        super().__init__(first.settings)
        self.first, self.second = first, second
        self.exact = first.exact and second.exact
        self.exportable = first.exportable and second.exportable
        self.explains = first.explains
        self.view = second.view
        # Normals of `calibrate`, for the scale of the maps, which may depend on `fuse`.
        self._normals: Batches = ()
        self.register_buffer("mean_2", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("deviation_2", torch.ones(2, dtype=torch.float64))
        self.register_buffer("map_mean_2", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("map_deviation_2", torch.ones(2, dtype=torch.float64))
        self.register_buffer("weight", torch.tensor(0.5, dtype=torch.float64))
        self.register_buffer("columns", torch.zeros((), dtype=torch.int64))

    def prepare(self, normals: Batches) -> None:
        self.first.prepare(normals)
        self.second.prepare(normals)

    def inherit(self, other: Detector) -> None:
        if isinstance(other, Fused):
            self.first.inherit(other.first)
            self.second.inherit(other.second)

    def sources(self) -> Any:
        return self.second.sources()

    def losses(self, batch: Batch, step: int, steps: int) -> dict[str, Tensor]:
        return self.second.losses(batch, step, steps)

    def optimizer(self, steps: int) -> tuple[Optimizer, LambdaLR]:
        return self.second.optimizer(steps)

    @torch.no_grad()
    def calibrate(self, train: Batches, held_out: Batches) -> None:
        """Both calibrate; then the number of parts."""
        self.first.calibrate(train, held_out)
        self.second.calibrate(train, held_out)
        for batch in train:
            self.columns.fill_(self.first.parts(batch["image"][:1]).shape[1])
            break
        self._normals = held_out

    def parts(self, images_B3HW: Tensor) -> Tensor:
        mine_BP, others_BP = (one.parts(images_B3HW).float() for one in (self.first, self.second))
        return torch.cat((mine_BP, others_BP.to(mine_BP.device)), 1)

    @torch.no_grad()
    def fuse(self, normals_NP: Tensor, pairs_MP: Tensor, labels_M: Tensor, kinds_M: Tensor) -> None:
        """Each fuses its own parts; then the scales of maps and scores, and the weight."""
        at = int(self.columns)
        self.first.fuse(normals_NP[:, :at], pairs_MP[:, :at], labels_M, kinds_M)
        self.second.fuse(normals_NP[:, at:], pairs_MP[:, at:], labels_M, kinds_M)
        self._scale_maps()
        # A run that fuses again must not keep an earlier choice.
        self.weight.fill_(0.5)
        if not len(normals_NP):
            return
        normals_N2 = self._two(normals_NP.float()).double()
        mean_2, deviation_2 = scales(normals_N2)
        self.mean_2.copy_(mean_2)
        self.deviation_2.copy_(deviation_2)
        if not (labels_M == 1).any():
            return
        normals_N2, pairs_M2 = (
            self._scaled(self._two(parts.float())) for parts in (normals_NP, pairs_MP)
        )
        _, weight = choose([(normals_N2, pairs_M2)], labels_M, "max", 0.5, len(normals_NP))
        self.weight.fill_(weight)

    def combined(self, parts_BP: Tensor) -> Tensor:
        return fused(self._scaled(self._two(parts_BP)), self.weight, "max").float()

    def forward(self, images_B3HW: Tensor) -> Scores:
        found = (self.first(images_B3HW), self.second(images_B3HW))
        image_B2 = torch.stack([one.image_B.float() for one in found], 1)
        maps_N2 = torch.stack([one.maps_BHW.double().flatten() for one in found], 1)
        maps_N2 = (maps_N2 - self.map_mean_2) / self.map_deviation_2
        image_B = fused(self._scaled(image_B2), self.weight, "max").float()
        maps_BHW = fused(maps_N2, self.weight, "max").float().view_as(found[0].maps_BHW)
        return Scores(image_B, maps_BHW)

    def explain(self, images_B3HW: Tensor) -> dict[str, Tensor]:
        return {
            name: one(images_B3HW).maps_BHW
            for name, one in (("first", self.first), ("second", self.second))
        }

    def reasons(self, images_B3HW: Tensor) -> list[list[Reason]]:
        return self.first.reasons(images_B3HW)

    def regions(self, images_B3HW: Tensor) -> list[list[Region]]:
        return self.first.regions(images_B3HW)

    def _scale_maps(self) -> None:
        """The peaks of both maps on some normals, as they are after `fuse` of both."""
        peaks: list[Tensor] = []
        seen = 0
        for batch in self._normals:
            if seen >= MAPS:
                break
            images = batch["image"][: MAPS - seen]
            seen += len(images)
            both = (self.first(images), self.second(images))
            peaks.append(torch.stack([one.maps_BHW.double().amax((1, 2)) for one in both], 1))
        if peaks:
            mean_2, deviation_2 = scales(torch.cat(peaks))
            self.map_mean_2.copy_(mean_2)
            self.map_deviation_2.copy_(deviation_2)

    def _two(self, parts_BP: Tensor) -> Tensor:
        """The image scores of both from their parts, (B, 2)."""
        at = int(self.columns)
        return torch.stack(
            (self.first.combined(parts_BP[:, :at]), self.second.combined(parts_BP[:, at:])), 1
        )

    def _scaled(self, scores_B2: Tensor) -> Tensor:
        return (scores_B2.double() - self.mean_2) / self.deviation_2
