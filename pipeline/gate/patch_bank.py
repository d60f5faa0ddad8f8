"""A bank of normal patches: does this place look like anything that good products show?

After PatchCore (Roth et al., CVPR 2022), cut down to what a gate needs: the first two stages of the
bundled teacher, so that a patch knows the paint within some fifty pixels and nothing of the logic
around it. A blur, a weave or a shadow without its object is far from every patch of the normals; a
part in a wrong place is not meant to be.

Shapes: H, W picture; 3 colour (RGB, uint8); h, w cells of 8 x 8 pixels; N bank entries; C channels
of both stages; K studied images; M asked cells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records import bounding_box

CELL = 8
"""Pixels per side of a cell."""
BANK = 8192
"""Cells kept of all studied images together; 3 MB of the bundled teacher's."""
REACH = 64
"""Pixels around a cell that its description may depend on; more than the network's field of view
and the averaging together, so a window gives the numbers of the whole picture."""


@dataclass(frozen=True, eq=False)
class PatchBank:
    """Cells of the studied normals. `cells_NC` and `pooled_KC` are float32 and scaled.

    `owners_N` says of which studied image (place in `digests`) a cell is. `scale_C` are the root
    mean squares of the stages, `teacher` is the weights file.
    """

    cells_NC: np.ndarray
    owners_N: np.ndarray
    pooled_KC: np.ndarray
    scale_C: np.ndarray
    digests: tuple[str, ...]
    teacher: Path
    _memo: dict[str, Any] = field(default_factory=dict)

    def without(self, digest: str) -> "PatchBank":
        """The bank without the cells of the image of that digest: nothing is its own proof."""
        own = self.digests.index(digest) if digest in self.digests else -1
        kept_N = self.owners_N != own
        kept_K = np.arange(len(self.digests)) != own
        return PatchBank(
            self.cells_NC[kept_N], self.owners_N[kept_N], self.pooled_KC[kept_K], self.scale_C,
            self.digests, self.teacher,
        )  # fmt: skip

    def distance_map(self, image_HW3: np.ndarray) -> np.ndarray:
        """(H, W) float32: how far each place is from anything that the normals show."""
        import cv2

        height, width = image_HW3.shape[:2]
        distances_hw = self.distances(image_HW3, np.ones((height, width), np.bool_))
        whole_HW = cv2.resize(
            distances_hw, (distances_hw.shape[1] * CELL, distances_hw.shape[0] * CELL)
        )
        return whole_HW[:height, :width]

    def distances(
        self, image_HW3: np.ndarray, where_HW: np.ndarray, around_HW: np.ndarray | None = None
    ) -> np.ndarray:
        """(h, w) float32: each cell's distance to its nearest entry, 0 where nothing is asked.

        Only a window around the region (or around `around_HW`, a larger one) goes through the
        network; the numbers are those of the whole picture to float rounding.
        """
        asked_hw = coverage(where_HW) > 0
        answers_hw = np.zeros(asked_hw.shape, np.float32)
        if asked_hw.any() and len(self.cells_NC):
            (top, left), described_hwC = self._window(
                image_HW3, where_HW if around_HW is None else around_HW
            )
            rows, columns = np.nonzero(asked_hw)
            cells_MC = described_hwC[rows - top, columns - left]
            answers_hw[rows, columns] = self._nearest(cells_MC)
        return answers_hw

    def region_distance(
        self, image_HW3: np.ndarray, where_HW: np.ndarray, around_HW: np.ndarray | None = None
    ) -> float:
        """Mean distance over a region, cells weighted by their share in it; 0 without a region."""
        return weighted(self.distances(image_HW3, where_HW, around_HW), coverage(where_HW))

    def distance_before(self, image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
        """`region_distance` for the source of many samples; its cells are described once."""
        weights_hw = coverage(where_HW)
        asked_hw = weights_hw > 0
        if not asked_hw.any() or not len(self.cells_NC):
            return 0.0
        answers_M = self._nearest(self._source(image_HW3)[asked_hw])
        return weighted(answers_M, weights_hw[asked_hw])

    def image_distance(
        self, edited_HW3: np.ndarray, image_HW3: np.ndarray, change_HW: np.ndarray
    ) -> float:
        """Distance of the picture's average cell to the nearest studied normal's.

        In units of the median distance from one normal to its nearest other. `image_HW3` is the
        edited picture's source; only the cells of the change are taken from the edited one.
        """
        if len(self.pooled_KC) < 2 or not change_HW.any():
            return 0.0
        source_hwC = self._source(image_HW3)
        (top, left), edited_hwC = self._window(edited_HW3, change_HW)
        rows, columns = np.nonzero(coverage(change_HW))
        moved_MC = edited_hwC[rows - top, columns - left] - source_hwC[rows, columns]
        cells = source_hwC.shape[0] * source_hwC.shape[1]
        pooled_C = source_hwC.mean((0, 1)) + moved_MC.sum(0) / cells
        distances_K = np.linalg.norm(self.pooled_KC - pooled_C, axis=1)
        return float(distances_K.min() / max(1e-6, self._usual()))

    def _usual(self) -> float:
        if "usual" not in self._memo:
            between_KK = np.linalg.norm(self.pooled_KC[:, None] - self.pooled_KC[None], axis=2)
            np.fill_diagonal(between_KK, np.inf)
            self._memo["usual"] = float(np.median(between_KK.min(1)))
        return float(self._memo["usual"])

    def _source(self, image_HW3: np.ndarray) -> np.ndarray:
        """All scaled cells of a picture; those of the last one are kept."""
        if self._memo.get("image") is not image_HW3:
            described_hwC = describe(image_HW3, self.teacher) / self.scale_C
            self._memo.update(image=image_HW3, cells=described_hwC)
        return np.asarray(self._memo["cells"])

    def _window(
        self, image_HW3: np.ndarray, where_HW: np.ndarray
    ) -> tuple[tuple[int, int], np.ndarray]:
        """The cell at which a window around the region begins, and its scaled cells (h, w, C).

        The last window is kept: a sample is asked about more than once.
        """
        x0, y0, x1, y1 = bounding_box(where_HW)
        height, width = where_HW.shape
        top, left = max(0, y0 - REACH) // CELL * CELL, max(0, x0 - REACH) // CELL * CELL
        bottom = min(height, -(-(y1 + REACH) // CELL) * CELL)
        right = min(width, -(-(x1 + REACH) // CELL) * CELL)
        seen = (image_HW3, (top, bottom, left, right))
        last = self._memo.get("window", (None, None, None))
        if last[0] is not seen[0] or last[1] != seen[1]:
            described_hwC = describe(image_HW3[top:bottom, left:right], self.teacher)
            last = self._memo["window"] = (*seen, described_hwC / self.scale_C)
        return (top // CELL, left // CELL), last[2]

    def _nearest(self, cells_MC: np.ndarray) -> np.ndarray:
        """(M,) the distance to the nearest entry; a product at a time of bounded size."""
        lengths_N = np.square(self.cells_NC).sum(1)
        squared_M = np.empty(len(cells_MC), np.float32)
        for at in range(0, len(cells_MC), 512):
            part_mC = cells_MC[at : at + 512]
            products_mN = part_mC @ self.cells_NC.T
            nearest_m = (lengths_N - 2 * products_mN).min(1)
            squared_M[at : at + 512] = nearest_m + np.square(part_mC).sum(1)
        return np.sqrt(np.maximum(squared_M, 0))


def build_bank(images: Mapping[str, Callable[[], np.ndarray]], teacher: Path) -> PatchBank:
    """Describe the images, by digest, and keep an equal, random share of each one's cells.

    Which cells of an image are kept depends on its digest alone.
    """
    share = BANK // max(1, len(images))
    kept, squares, count, pooled = [], np.zeros(2), 0, []
    for digest, load in images.items():
        described_hwC = describe(load(), teacher)
        cells_PC = described_hwC.reshape(-1, described_hwC.shape[-1])
        rng = np.random.default_rng(int(digest[:16], 16))
        chosen = np.sort(rng.permutation(len(cells_PC))[:share])
        kept.append(cells_PC[chosen])
        pooled.append(cells_PC.mean(0))
        fine = _fine_channels(teacher)
        parts = (cells_PC[:, :fine], cells_PC[:, fine:])
        squares += [float(np.square(part, dtype=np.float64).sum()) for part in parts]
        count += len(cells_PC)
    channels = kept[0].shape[1]
    fine = _fine_channels(teacher)
    scales = np.maximum(np.sqrt(squares / count), 1e-6)
    scale_C = np.repeat(scales, (fine, channels - fine)).astype(np.float32)
    owners_N = np.repeat(np.arange(len(kept), dtype=np.int32), [len(part) for part in kept])
    return PatchBank(
        np.concatenate(kept) / scale_C, owners_N, np.stack(pooled) / scale_C, scale_C,
        tuple(images), teacher,
    )  # fmt: skip


def describe(image_HW3: np.ndarray, teacher: Path) -> np.ndarray:
    """(h, w, C) float32: the teacher's first two stages at 8 pixels per cell, averaged a little."""
    import torch
    import torch.nn.functional as F

    from pipeline.models.backbone import normalise

    height, width = image_HW3.shape[:2]
    padded_HW3 = np.pad(
        image_HW3, ((0, -height % CELL), (0, -width % CELL), (0, 0)), mode="reflect"
    )
    with torch.inference_mode():
        batch_13HW = torch.from_numpy(padded_HW3).permute(2, 0, 1)[None]
        trunk = _trunk(teacher)
        stem = trunk.conv1(normalise(batch_13HW).contiguous(memory_format=torch.channels_last))
        fine = trunk.layer1(trunk.maxpool(trunk.relu(trunk.bn1(stem))))
        middle = F.avg_pool2d(trunk.layer2(fine), 3, 1, 1)
        fine = F.avg_pool2d(fine, 4, 2, 1)
        described_Chw = torch.cat((fine, middle), 1)[0]
        return described_Chw.permute(1, 2, 0).contiguous().numpy()


def coverage(where_HW: np.ndarray) -> np.ndarray:
    """(h, w) float32: the share of each cell that the region covers."""
    height, width = where_HW.shape
    padded_HW = np.pad(where_HW, ((0, -height % CELL), (0, -width % CELL)))
    cells_hwpp = padded_HW.reshape(padded_HW.shape[0] // CELL, CELL, -1, CELL)
    return cells_hwpp.mean((1, 3), dtype=np.float32)


def weighted(distances_hw: np.ndarray, weights_hw: np.ndarray) -> float:
    """The weighted mean of a map; 0 when nothing weighs."""
    total = float(weights_hw.sum())
    return float((distances_hw * weights_hw).sum() / total) if total else 0.0


def _fine_channels(teacher: Path) -> int:
    return int(_trunk(teacher).channels[0])


@lru_cache(maxsize=1)
def _trunk(teacher: Path) -> Any:
    import torch

    from pipeline.models.backbone import small_teacher

    return small_teacher(teacher).to(memory_format=torch.channels_last)
