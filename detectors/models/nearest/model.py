"""A nearest-neighbour patch baseline: the distance of every cell to those of normal images.

After PatchCore (Roth et al., CVPR 2022), simplified. Every cell of layer2 is described by 3x3
averages of layer2 and layer3 at its place (section 3.1), each level divided by its root mean square
over the bank, so that neither dominates. The memory bank is a subset of the cells of the training
normals, drawn at random or as a greedy coreset (section 3.2). The distance of a cell to its nearest
bank entry is the map, its maximum the image score (section 3.3). Nothing is trained.

Shapes: B batch; H, W image; 3 colour; h, w cells of layer2; P = h * w; C channels of layer2 and
layer3; N bank entries; M candidates of the greedy coreset; K neighbours.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.base import Batches, Detector, DetectorEntry, DetectorSettings, Schedule, Scores
from pipeline.models.backbone import Trunk, normalise, trunk_of

# Randomly drawn cells among which the greedy coreset selects; 154 MB with ResNet-18.
CANDIDATES = 100_000
# Dimensions of the random projection in which it measures distances, as in the paper's code.
PROJECTED = 128
# Bank entries per distance computation: a batch of sixteen 256-px images then needs 67 MB.
CHUNK = 1024


class NearestSettings(DetectorSettings):
    """Settings of the patch baseline."""

    teacher: Literal["resnet18", "bundled-teacher"] = Field(
        default="resnet18", description="weights registry entry loaded into the frozen network"
    )
    bank: int = Field(default=10_000, ge=1, description="cells of normal images in the memory bank")
    subset: Literal["random", "greedy"] = Field(
        default="random",
        description="selection of these cells; greedy = a coreset: always the cell farthest "
        "from all selected ones",
    )
    seed: int = Field(default=0, ge=0, description="random seed of that selection")
    neighbours: int = Field(
        default=0,
        ge=0,
        description="bank entries in PatchCore's re-weighting of the image score; 0: no "
        "re-weighting",
    )


class Nearest(Detector):
    """A frozen trunk and `bank_NC`, the scaled cells of normal images; `scale_C` is their scale."""

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
        """Fill the bank; if the normals have fewer cells than `settings.bank`, all are used."""
        # Draw the cells before describing them, so only the drawn ones are kept in memory.
        images = sum(len(batch["image"]) for batch in normals)
        first = next(iter(normals))["image"]
        cells = self.describe(first[:1])[0].flatten(1).shape[1]
        greedy = self.subset == "greedy"
        drawn = min(max(self.bank, CANDIDATES) if greedy else self.bank, cells * images)
        rng = np.random.default_rng(self.seed)
        chosen = np.sort(rng.choice(cells * images, drawn, replace=False))
        # `at` is the number of the first cell of a batch among all cells.
        kept, at = [], 0
        for batch in normals:
            described_PC = self.describe(batch["image"]).permute(0, 2, 3, 1).flatten(0, 2)
            low, high = np.searchsorted(chosen, (at, at + len(described_PC)))
            kept.append(described_PC[torch.from_numpy(chosen[low:high] - at).to(first.device)])
            at += len(described_PC)
        cells_NC = torch.cat(kept)
        if greedy and len(cells_NC) > self.bank:
            cells_NC = cells_NC[coreset_rows(self._scaled(cells_NC), self.bank, self.seed)]
        # Scaled again, as the root mean square is now that of the selected cells.
        self.bank_NC = self._scaled(cells_NC)

    def forward(self, images_B3HW: Tensor) -> Scores:
        cells_BCHW = self.describe(images_B3HW) / self.scale_C.view(-1, 1, 1)
        cells_BPC = cells_BCHW.flatten(2).transpose(1, 2)
        distances_BP = self._nearest(cells_BPC)
        maps_B1HW = F.interpolate(
            distances_BP.unflatten(1, cells_BCHW.shape[2:])[:, None],
            images_B3HW.shape[2:], mode="bilinear", align_corners=False,
        )  # fmt: skip
        # The image score comes from the cells, not from the upsampled map, which smooths peaks.
        image_B, places_B = distances_BP.max(1)
        if self.neighbours:
            index_B1C = places_B[:, None, None].expand(-1, 1, cells_BPC.shape[2])
            image_B = image_B * self._weights(cells_BPC.gather(1, index_B1C)[:, 0])
        return Scores(image_B, maps_B1HW[:, 0])

    def describe(self, images_B3HW: Tensor) -> Tensor:
        """(B, C, h, w) float32: the averaged levels, concatenated, not yet scaled."""
        levels = self.trunk(normalise(images_B3HW))[1:]
        # PatchCore's locally aware features: averages over 3 x 3 neighbourhoods.
        middle, coarse = (F.avg_pool2d(level.float(), 3, 1, 1) for level in levels)
        coarse = F.interpolate(coarse, middle.shape[2:], mode="bilinear", align_corners=False)
        return torch.cat((middle, coarse), 1)

    def _scaled(self, cells_NC: Tensor) -> Tensor:
        """The cells, divided by the root mean square length of their level; sets `scale_C`."""
        parts = cells_NC.split(list(self.trunk.channels[1:]), 1)
        scales = [part.square().sum(1).mean().sqrt().expand(part.shape[1]) for part in parts]
        self.scale_C = torch.cat(scales)
        return cells_NC / self.scale_C

    def _nearest(self, cells_BPC: Tensor) -> Tensor:
        """(B, P): the distance of each cell to the bank."""
        # In chunks, because all distances at once can exceed the memory.
        distances_BP = torch.cdist(cells_BPC, self.bank_NC[:CHUNK]).amin(2)
        for at in range(CHUNK, len(self.bank_NC), CHUNK):
            part_BP = torch.cdist(cells_BPC, self.bank_NC[at : at + CHUNK]).amin(2)
            distances_BP = torch.minimum(distances_BP, part_BP)
        return distances_BP

    def _weights(self, worst_BC: Tensor) -> Tensor:
        """(B,): PatchCore's equation 7, one minus the softmax share of the nearest bank entry.

        The worst cell of an image counts less where the bank is dense around its match.
        """
        distances_BN = torch.cdist(worst_BC, self.bank_NC)
        match_B = distances_BN.argmin(1)
        around_BN = torch.cdist(self.bank_NC[match_B], self.bank_NC)
        count = min(self.neighbours, len(self.bank_NC))
        near_BK = around_BN.topk(count, 1, largest=False).indices
        # The match is its own nearest neighbour, so it has the first share.
        shares_BK = distances_BN.gather(1, near_BK).softmax(1)
        return 1 - shares_BK[:, 0]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Accept a bank of any length: few normals give fewer cells than `settings.bank`."""
        found = state_dict.get(prefix + "bank_NC")
        if found is not None:
            self.bank_NC = self.bank_NC.new_empty(found.shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def coreset_rows(cells_MC: Tensor, count: int, seed: int) -> Tensor:
    """(count,) int64: a greedy coreset; each next row is the one farthest from all before it.

    Distances are measured after a random projection (Johnson-Lindenstrauss), which nearly preserves
    them and takes a third of the time.
    """
    generator = torch.Generator().manual_seed(seed)
    channels = cells_MC.shape[1]
    if channels > PROJECTED:
        projection = torch.randn(channels, PROJECTED, generator=generator).to(cells_MC.device)
        cells_MC = cells_MC @ projection
    # |a - b|^2 = |a|^2 + |b|^2 - 2 a b needs one matrix-vector product per selected row.
    lengths_M = cells_MC.square().sum(1)
    nearest_M = torch.full_like(lengths_M, float("inf"))
    row = torch.randint(len(cells_MC), (), generator=generator).to(cells_MC.device)
    rows = []
    for _ in range(count):
        rows.append(row)
        squared_M = lengths_M + lengths_M[row] - 2 * (cells_MC @ cells_MC[row])
        nearest_M = torch.minimum(nearest_M, squared_M)
        # Never select a row twice, even if all remaining cells equal selected ones.
        nearest_M[row] = -1
        row = nearest_M.argmax()
    return torch.stack(rows)


def build(settings: NearestSettings, weights: Path | None) -> Nearest:
    """The baseline on the trunk that `settings.teacher` names."""
    return Nearest(settings, trunk_of(settings.teacher, weights))


ENTRY = DetectorEntry(
    name="nearest",
    summary="nearest-neighbour patch distances, after PatchCore; nothing is trained",
    citation="K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler: Towards Total "
    "Recall in Industrial Anomaly Detection. CVPR 2022.",
    build=build,
    paper=(NearestSettings(subset="greedy"), Schedule(steps=0, batch_size=8)),
    tiny=(NearestSettings(teacher="bundled-teacher"), Schedule(steps=0, batch_size=8)),
)
