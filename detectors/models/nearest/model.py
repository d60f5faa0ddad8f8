"""A nearest-neighbour patch baseline: how far is each place from anything that good products show?

After PatchCore (Roth et al., CVPR 2022), simplified. Every cell of layer2 is described by 3x3
averages of layer2 and of layer3 at its place, each level divided by its root mean square over the
bank so that neither drowns the other. The bank is a subset of the cells of the training normals,
drawn at random or greedily so that it covers them. A cell's distance to its nearest entry is the
map, its maximum the image score. Nothing is trained.

Shapes: B batch; H, W picture; 3 colour; h, w cells of layer2; P = h * w; C channels of layer2 and
layer3; N bank entries; M candidates of the greedy choice; K neighbours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.base import Batches, Detector, DetectorSettings, Scores
from pipeline.models.backbone import Trunk, normalise, trunk_of

CANDIDATES = 100_000
"""Cells that the greedy choice looks at, drawn at random; 154 MB of the ResNet-18's."""
PROJECTED = 128
"""Dimensions in which it measures distances, as the paper's code does."""
CHUNK = 1024
"""Bank entries per product: a batch of sixteen 256-px pictures then needs 67 MB."""


class NearestSettings(DetectorSettings):
    """What may be told to the patch baseline."""

    teacher: Literal["resnet18", "bundled-teacher"] = Field(
        default="resnet18", description="entry of the weights registry that the frozen part reads"
    )
    bank: int = Field(default=10_000, ge=1, description="cells of good pictures to compare with")
    subset: Literal["random", "greedy"] = Field(
        default="random",
        description="how they are chosen; greedy: the cell farthest from all chosen ones",
    )
    seed: int = Field(default=0, ge=0, description="seed of that choice")
    neighbours: int = Field(
        default=0,
        ge=0,
        description="entries in PatchCore's re-weighting of the image score; 0: none",
    )


class Nearest(Detector):
    """A frozen trunk and `bank_NC`, the scaled cells of good pictures; `scale_C` is their scale."""

    bank_NC: Tensor
    scale_C: Tensor

    def __init__(self, settings: NearestSettings, trunk: Trunk) -> None:
        super().__init__(settings)
        self.trunk = trunk.freeze()
        self.bank, self.subset, self.seed = settings.bank, settings.subset, settings.seed
        self.neighbours = settings.neighbours
        channels = sum(trunk.channels[1:])
        self.register_buffer("bank_NC", torch.zeros(settings.bank, channels))
        self.register_buffer("scale_C", torch.ones(channels))

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Fill the bank: of fewer cells than `settings.bank` all are taken."""
        images = sum(len(batch["image"]) for batch in normals)
        first = next(iter(normals))["image"]
        cells = self.describe(first[:1])[0].flatten(1).shape[1]
        greedy = self.subset == "greedy"
        drawn = min(max(self.bank, CANDIDATES) if greedy else self.bank, cells * images)
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.choice(cells * images, drawn, replace=False))
        kept, at = [], 0
        for batch in normals:
            described_PC = self.describe(batch["image"]).permute(0, 2, 3, 1).flatten(0, 2)
            low, high = np.searchsorted(chosen, (at, at + len(described_PC)))
            kept.append(described_PC[torch.from_numpy(chosen[low:high] - at).to(first.device)])
            at += len(described_PC)
        cells_NC = torch.cat(kept)
        if greedy and len(cells_NC) > self.bank:
            cells_NC = cells_NC[farthest(self._scaled(cells_NC), self.bank, self.seed)]
        self.bank_NC = self._scaled(cells_NC)

    def forward(self, images_B3HW: Tensor) -> Scores:
        cells_BCHW = self.describe(images_B3HW) / self.scale_C.view(-1, 1, 1)
        cells_BPC = cells_BCHW.flatten(2).transpose(1, 2)
        distances_BP = self._nearest(cells_BPC)
        maps_B1HW = F.interpolate(
            distances_BP.unflatten(1, cells_BCHW.shape[2:])[:, None],
            images_B3HW.shape[2:], mode="bilinear", align_corners=False,
        )  # fmt: skip
        image_B, places_B = distances_BP.max(1)
        if self.neighbours:
            index_B1C = places_B[:, None, None].expand(-1, 1, cells_BPC.shape[2])
            image_B = image_B * self._weights(cells_BPC.gather(1, index_B1C)[:, 0])
        return Scores(image_B, maps_B1HW[:, 0])

    def describe(self, images_B3HW: Tensor) -> Tensor:
        """(B, C, h, w) float32: the averaged levels over one another, not yet scaled."""
        levels = self.trunk(normalise(images_B3HW))[1:]
        middle, coarse = (F.avg_pool2d(level.float(), 3, 1, 1) for level in levels)
        coarse = F.interpolate(coarse, middle.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat((middle, coarse), 1)

    def _scaled(self, cells_NC: Tensor) -> Tensor:
        """The cells divided by the root mean square of their level, which `scale_C` keeps."""
        parts = cells_NC.split(list(self.trunk.channels[1:]), 1)
        scales = [part.square().sum(1).mean().sqrt().expand(part.shape[1]) for part in parts]
        self.scale_C = torch.cat(scales)
        return cells_NC / self.scale_C

    def _nearest(self, cells_BPC: Tensor) -> Tensor:
        """(B, P): the distance of each cell to the bank."""
        distances_BP = torch.cdist(cells_BPC, self.bank_NC[:CHUNK]).amin(2)
        for at in range(CHUNK, len(self.bank_NC), CHUNK):
            part_BP = torch.cdist(cells_BPC, self.bank_NC[at : at + CHUNK]).amin(2)
            distances_BP = torch.minimum(distances_BP, part_BP)
        return distances_BP

    def _weights(self, worst_BC: Tensor) -> Tensor:
        """(B,): one minus the nearest entry's share among its own neighbours (equation 7 there).

        A picture's worst cell counts less where the bank itself is dense around its match.
        """
        distances_BN = torch.cdist(worst_BC, self.bank_NC)
        match_B = distances_BN.argmin(1)
        around_BN = torch.cdist(self.bank_NC[match_B], self.bank_NC)
        count = min(self.neighbours, len(self.bank_NC))
        near_BK = around_BN.topk(count, 1, largest=False).indices
        shares_BK = distances_BN.gather(1, near_BK).softmax(1)  # the match is the first of them
        return 1 - shares_BK[:, 0]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Take over a bank of any length: one of few normals is shorter than asked for."""
        found = state_dict.get(prefix + "bank_NC")
        if found is not None:
            self.bank_NC = self.bank_NC.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def farthest(cells_MC: Tensor, count: int, seed: int) -> Tensor:
    """(count,) int64: rows chosen so that the next is the one farthest from all before it.

    Distances are taken after a random projection, which keeps them and costs a third.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = cells_MC.shape[1]
    if channels > PROJECTED:
        projection = torch.randn(channels, PROJECTED, generator=generator).to(cells_MC.device)
        cells_MC = cells_MC @ projection
    lengths_M = cells_MC.square().sum(1)
    nearest_M = torch.full_like(lengths_M, float("inf"))
    row = torch.randint(len(cells_MC), (), generator=generator).to(cells_MC.device)
    rows = []
    for _ in range(count):
        rows.append(row)
        squared_M = lengths_M + lengths_M[row] - 2 * (cells_MC @ cells_MC[row])
        nearest_M = torch.minimum(nearest_M, squared_M)
        nearest_M[row] = -1  # never again, also not among equal cells
        row = nearest_M.argmax()
    return torch.stack(rows)


def build(settings: NearestSettings, weights: Path | None) -> Nearest:
    """The baseline on the trunk that `settings.teacher` names."""
    return Nearest(settings, trunk_of(settings.teacher, weights))
