"""A nearest-neighbour patch baseline: the distance of every cell to those of normal images.

After PatchCore (Roth et al., CVPR 2022), simplified: see `detectors.networks.patch_memory`. The
distance of a cell to its nearest bank entry is the map, its maximum the image score (section 3.3).
Nothing is trained.

Shapes: B batch; H, W image; 3 colour; h, w cells of stride 8; P = h * w; C channels of two levels;
N bank entries; K neighbours.
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from detectors.base import Batches, Detector, DetectorEntry, DetectorSettings, Schedule, Scores
from detectors.networks.frozen_levels import FrozenLevels
from detectors.networks.patch_memory import PatchMemory, Subset
from pipeline.models.trunks import AnyTrunk, trunk_of


class NearestSettings(DetectorSettings):
    """Settings of the patch baseline."""

    teacher: Literal["resnet18", "efficientnet-lite0", "bundled-teacher"] = Field(
        default="resnet18", description="weights registry entry loaded into the frozen network"
    )
    bank: int = Field(default=10_000, ge=1, description="cells of normal images in the memory bank")
    subset: Subset = Field(
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

    def trains(self) -> bool:
        return False


class Nearest(Detector):
    """A frozen trunk and the memory of its patches."""

    exact = True
    settings: NearestSettings

    def __init__(self, settings: NearestSettings, trunk: AnyTrunk) -> None:
        super().__init__(settings)
        self.features = FrozenLevels(trunk)
        channels = self.features.middle, self.features.coarse
        self.memory = PatchMemory(channels, settings.bank, settings.subset, settings.seed)

    @torch.no_grad()
    def prepare(self, normals: Batches) -> None:
        """Fill the bank."""
        images = sum(len(batch["image"]) for batch in normals)
        self.memory.fill((self.features(batch["image"], keep=True) for batch in normals), images)

    def inherit(self, other: Detector) -> None:
        if isinstance(other, Nearest):
            self.features.share(other.features)

    def forward(self, images_B3HW: Tensor) -> Scores:
        levels = self.features(images_B3HW)
        distances_Bhw = self.memory(*levels)
        maps_B1HW = F.interpolate(
            distances_Bhw[:, None], images_B3HW.shape[2:], mode="bilinear", align_corners=False
        )
        # The image score comes from the cells, not from the upsampled map, which smooths peaks.
        image_B, places_B = distances_Bhw.flatten(1).max(1)
        if self.settings.neighbours:
            cells_BPC = self.memory.cells(*levels)
            index_B1C = places_B[:, None, None].expand(-1, 1, cells_BPC.shape[2])
            image_B = image_B * self._weights(cells_BPC.gather(1, index_B1C)[:, 0])
        return Scores(image_B, maps_B1HW[:, 0])

    def _weights(self, worst_BC: Tensor) -> Tensor:
        """(B,): PatchCore's equation 7, one minus the softmax share of the nearest bank entry.

        The worst cell of an image counts less where the bank is dense around its match.
        """
        bank_NC = self.memory.bank_NC
        distances_BN = torch.cdist(worst_BC, bank_NC)
        match_B = distances_BN.argmin(1)
        around_BN = torch.cdist(bank_NC[match_B], bank_NC)
        count = min(self.settings.neighbours, len(bank_NC))
        near_BK = around_BN.topk(count, 1, largest=False).indices
        # The match is its own nearest neighbour, so it has the first share.
        shares_BK = distances_BN.gather(1, near_BK).softmax(1)
        return 1 - shares_BK[:, 0]


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
    cpu=(
        NearestSettings(teacher="efficientnet-lite0"),
        Schedule(steps=0, batch_size=8, folds=5),
    ),
    tiny=(NearestSettings(teacher="bundled-teacher"), Schedule(steps=0, batch_size=8)),
)
