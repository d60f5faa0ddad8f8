"""A bank of patch features of normal images, and nearest-patch distances to it.

After PatchCore (Roth et al., CVPR 2022), reduced to what a gate needs: the first two stages of the
bundled teacher, so that a patch describes the surface within some fifty pixels and not the logic of
the scene. A blur, a weave or a shadow without its object is far from every normal patch; an object
at a wrong place is not meant to be.

`nearest_distances` also serves the detectability audit.

Shapes: H, W image; 3 colour (RGB, uint8); h, w cells of 8 x 8 pixels; P all cells of one image;
N bank entries; C channels of both stages; K calibration images; M queried cells.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records import bounding_box

# Pixels per side of a cell.
CELL = 8
# Cells kept of all calibration images together; about 3 MB for the bundled teacher.
BANK_CELLS = 8192
# Pixels around a cell that its features may depend on: more than receptive field and averaging
# together, so a window gives the same features as the whole image.
CONTEXT = 64
# Queried cells per matrix product, which bounds its memory.
CHUNK = 512
# Rows of that product of which the least entries are taken at once.
ROWS = 8


@dataclass(frozen=True, eq=False)
class PatchBank:
    """Patch features (cells) of calibration images. `cells_NC` and `pooled_KC` are float32, scaled.

    `pooled_KC` is the mean cell of each image. `owners_N` is the index (in `digests`) of the image
    that a cell comes from. `scale_C` are the root mean squares of the stages, by which features are
    divided so that both stages weigh the same. `teacher` is the weights file.
    """

    cells_NC: np.ndarray
    owners_N: np.ndarray
    pooled_KC: np.ndarray
    scale_C: np.ndarray
    digests: tuple[str, ...]
    teacher: Path
    # The features of the last source image and of the last window: samples of one image come one
    # after another.
    _memo: dict[str, Any] = field(default_factory=dict)

    def without(self, digest: str) -> "PatchBank":
        """The bank without the cells of the image with that digest (SHA-256 of its file).

        An image must not be compared with its own patches; for an unknown digest nothing changes.
        """
        own = self.digests.index(digest) if digest in self.digests else -1
        kept_N = self.owners_N != own
        kept_K = np.arange(len(self.digests)) != own
        return PatchBank(
            self.cells_NC[kept_N], self.owners_N[kept_N], self.pooled_KC[kept_K], self.scale_C,
            self.digests, self.teacher,
        )  # fmt: skip

    def distance_map(self, image_HW3: np.ndarray) -> np.ndarray:
        """(H, W) float32: distance of each place to its nearest normal patch."""
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
        """(h, w) float32: each cell's distance to its nearest bank entry; 0 outside the region.

        Only a window around the region (or around `around_HW`, a larger one) passes through the
        network; the result equals that of the whole image up to rounding.
        """
        wanted_hw = coverage(where_HW) > 0
        distances_hw = np.zeros(wanted_hw.shape, np.float32)
        if wanted_hw.any() and len(self.cells_NC):
            (top, left), described_hwC = self._window(
                image_HW3, where_HW if around_HW is None else around_HW
            )
            rows, columns = np.nonzero(wanted_hw)
            cells_MC = described_hwC[rows - top, columns - left]
            distances_hw[rows, columns] = self._nearest(cells_MC)
        return distances_hw

    def region_distance(
        self, image_HW3: np.ndarray, where_HW: np.ndarray, around_HW: np.ndarray | None = None
    ) -> float:
        """Mean distance over a region, cells weighted by how much of them it covers; 0 if empty."""
        return weighted(self.distances(image_HW3, where_HW, around_HW), coverage(where_HW))

    def distance_before(self, image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
        """`region_distance` in a source image, whose features are computed once for all samples."""
        weights_hw = coverage(where_HW)
        wanted_hw = weights_hw > 0
        if not wanted_hw.any() or not len(self.cells_NC):
            return 0.0
        cells_hwC = self._source(image_HW3)
        # Edits of one object leave the same hole again and again.
        known: dict[bytes, float] = self._memo.setdefault("before", {})
        key = weights_hw.tobytes()
        if key not in known:
            known[key] = weighted(self._nearest(cells_hwC[wanted_hw]), weights_hw[wanted_hw])
        return known[key]

    def image_distance(
        self, edited_HW3: np.ndarray, image_HW3: np.ndarray, change_HW: np.ndarray
    ) -> float:
        """Distance of the image's mean cell to that of the nearest calibration image.

        In units of the median distance from a normal image to its nearest other one. `image_HW3` is
        the source of the edited image; only the cells under the change mask are taken from the
        edited one. 0 with fewer than two calibration images or an empty mask.
        """
        if len(self.pooled_KC) < 2 or not change_HW.any():
            return 0.0
        source_hwC = self._source(image_HW3)
        (top, left), edited_hwC = self._window(edited_HW3, change_HW)
        rows, columns = np.nonzero(coverage(change_HW))
        # Update the source's mean by the cells that changed, instead of describing the whole image.
        moved_MC = edited_hwC[rows - top, columns - left] - source_hwC[rows, columns]
        cells = source_hwC.shape[0] * source_hwC.shape[1]
        pooled_C = source_hwC.mean((0, 1)) + moved_MC.sum(0) / cells
        distances_K = np.linalg.norm(self.pooled_KC - pooled_C, axis=1)
        return float(distances_K.min() / max(1e-6, self._usual()))

    def _usual(self) -> float:
        """Median distance of a calibration image's mean cell to its nearest other one."""
        if "usual" not in self._memo:
            between_KK = np.linalg.norm(self.pooled_KC[:, None] - self.pooled_KC[None], axis=2)
            np.fill_diagonal(between_KK, np.inf)
            self._memo["usual"] = float(np.median(between_KK.min(1)))
        return float(self._memo["usual"])

    def _source(self, image_HW3: np.ndarray) -> np.ndarray:
        """All scaled cells (h, w, C) of an image; those of the last image are kept."""
        # Compared by identity: one array object is used for all samples of an image.
        if self._memo.get("image") is not image_HW3:
            described_hwC = describe(image_HW3, self.teacher) / self.scale_C
            self._memo.update(image=image_HW3, cells=described_hwC, before={})
        return np.asarray(self._memo["cells"])

    def _nearest(self, cells_MC: np.ndarray) -> np.ndarray:
        if "lengths" not in self._memo:
            self._memo["lengths"] = np.square(self.cells_NC).sum(1)
        return nearest_distances(cells_MC, self.cells_NC, lengths_N=self._memo["lengths"])

    def _window(
        self, image_HW3: np.ndarray, where_HW: np.ndarray
    ) -> tuple[tuple[int, int], np.ndarray]:
        """The first cell (row, column) of a window around the region, and its cells (h, w, C).

        The last window is kept, because several scores of a sample need it.
        """
        x0, y0, x1, y1 = bounding_box(where_HW)
        height, width = where_HW.shape
        # Align the window with the cell grid of the whole image.
        top, left = max(0, y0 - CONTEXT) // CELL * CELL, max(0, x0 - CONTEXT) // CELL * CELL
        bottom = min(height, -(-(y1 + CONTEXT) // CELL) * CELL)
        right = min(width, -(-(x1 + CONTEXT) // CELL) * CELL)
        seen = (image_HW3, (top, bottom, left, right))
        last = self._memo.get("window", (None, None, None))
        if last[0] is not seen[0] or last[1] != seen[1]:
            described_hwC = describe(image_HW3[top:bottom, left:right], self.teacher)
            last = self._memo["window"] = (*seen, described_hwC / self.scale_C)
        return (top // CELL, left // CELL), last[2]


def nearest_distances(
    cells_MC: np.ndarray,
    bank_NC: np.ndarray,
    chunk: int = CHUNK,
    lengths_N: np.ndarray | None = None,
) -> np.ndarray:
    """(M,) float32: Euclidean distance of each cell to its nearest bank entry; both float32.

    `chunk` cells are compared at a time; `lengths_N` are the squared lengths of the bank's entries,
    where they are known. ValueError for an empty bank.
    """
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab: one matrix product instead of M x N x C differences. Rounding
    # can make it slightly negative.
    if lengths_N is None:
        lengths_N = np.square(bank_NC).sum(1)
    squared_M = np.empty(len(cells_MC), np.float32)
    for at in range(0, len(cells_MC), chunk):
        part_mC = cells_MC[at : at + chunk]
        products_mN = (-2 * part_mC) @ bank_NC.T
        # In place and a few rows at a time: they are still in the cache when the least is taken.
        for row in range(0, len(part_mC), ROWS):
            rows_rN = products_mN[row : row + ROWS]
            rows_rN += lengths_N
            squared_M[at + row : at + row + len(rows_rN)] = rows_rN.min(1)
        squared_M[at : at + chunk] += np.square(part_mC).sum(1)
    return np.sqrt(np.maximum(squared_M, 0))


def build_bank(images: Mapping[str, Callable[[], np.ndarray]], teacher: Path) -> PatchBank:
    """A bank of equally many random cells of each image; `images` load uint8 pixels by digest.

    Which cells of an image are kept depends only on its digest and on the number of images.
    """
    share = BANK_CELLS // max(1, len(images))
    kept, squares, count, pooled = [], np.zeros(2), 0, []
    for digest, load in images.items():
        described_hwC = describe(load(), teacher)
        cells_PC = described_hwC.reshape(-1, described_hwC.shape[-1])
        # Seeded by the digest, so that the bank does not depend on the order of the images.
        rng = np.random.default_rng(int(digest[:16], 16))
        chosen = np.sort(rng.permutation(len(cells_PC))[:share])
        kept.append(cells_PC[chosen])
        pooled.append(cells_PC.mean(0))
        # Accumulate the power of each stage, over all cells, kept or not.
        fine = _fine_channels(teacher)
        stages = (cells_PC[:, :fine], cells_PC[:, fine:])
        squares += [float(np.square(part, dtype=np.float64).sum()) for part in stages]
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
    """(h, w, C) float32: features of the teacher's first two stages in cells of 8 x 8 pixels.

    The second stage is averaged over 3 x 3 cells, the first one pooled to the same grid. Images
    whose sides are not multiples of 8 are padded by reflection.
    """
    # Torch is imported here, so that a gate without the network does not need it.
    import torch
    import torch.nn.functional as F

    height, width = image_HW3.shape[:2]
    padded_HW3 = np.pad(
        image_HW3, ((0, -height % CELL), (0, -width % CELL), (0, 0)), mode="reflect"
    )
    with torch.inference_mode():
        batch_13HW = torch.from_numpy(padded_HW3).permute(2, 0, 1)[None]
        trunk = _trunk(teacher)
        # No name for the stem's maps, which are the largest: they are free when pooled.
        fine = trunk.layer1(trunk.stem(batch_13HW))
        middle = F.avg_pool2d(trunk.layer2(fine), 3, 1, 1)
        fine = F.avg_pool2d(fine, 4, 2, 1)
        described_Chw = torch.cat((fine, middle), 1)[0]
        return described_Chw.permute(1, 2, 0).contiguous().numpy()


def coverage(where_HW: np.ndarray) -> np.ndarray:
    """(h, w) float32: the share of each 8 x 8 cell that the mask covers."""
    height, width = where_HW.shape
    padded_HW = np.pad(where_HW, ((0, -height % CELL), (0, -width % CELL)))
    cells_hwpp = padded_HW.reshape(padded_HW.shape[0] // CELL, CELL, -1, CELL)
    return cells_hwpp.mean((1, 3), dtype=np.float32)


def weighted(distances_hw: np.ndarray, weights_hw: np.ndarray) -> float:
    """The weighted mean of an array; 0 when all weights are 0."""
    total = float(weights_hw.sum())
    return float((distances_hw * weights_hw).sum() / total) if total else 0.0


def _fine_channels(teacher: Path) -> int:
    return int(_trunk(teacher).channels[0])


# One network per process; channels last is faster on CPUs.
@lru_cache(maxsize=1)
def _trunk(teacher: Path) -> Any:
    import torch

    from pipeline.models.backbone import small_teacher

    return small_teacher(teacher).to(memory_format=torch.channels_last)
