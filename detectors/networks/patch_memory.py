"""A memory of patches of normal images, and the distance of every patch to its nearest entry.

    memory = PatchMemory(channels=(40, 112), bank=10_000)
    memory.fill(levels_of_normals, images=200)     # (middle, coarse) of each batch
    distances_Bhw = memory(middle_BChw, coarse_BChw)

After PatchCore (Roth et al., CVPR 2022), simplified. Every cell of the finer level is described by
3x3 averages of both levels at its place (section 3.1), each level divided by its root mean square
over the bank, so that neither dominates. The bank is a subset of the cells of the normals, drawn at
random or as a greedy coreset (section 3.2).

Shapes: B batch; h, w cells of the finer level; P = h * w; C channels of both levels; N bank
entries; M candidates of the greedy coreset.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.networks.any_shape import AnyShape

# Randomly drawn cells among which the greedy coreset selects; 154 MB with ResNet-18.
CANDIDATES = 100_000
# Dimensions of the random projection in which it measures distances, as in the paper's code.
PROJECTED = 128
# Bank entries per distance computation: a batch of sixteen 256-px images then needs 67 MB.
CHUNK = 1024

Subset = Literal["random", "greedy"]
# Features of strides 8 and 16.
Pair = tuple[Tensor, Tensor]


class PatchMemory(AnyShape):
    """`bank_NC`, the scaled cells of normal images; `scale_C` is their scale."""

    bank_NC: Tensor
    scale_C: Tensor

    def __init__(
        self, channels: tuple[int, ...], bank: int, subset: Subset = "random", seed: int = 0
    ) -> None:
        super().__init__()
        self.channels, self.bank, self.subset, self.seed = channels, bank, subset, seed
        self.register_buffer("bank_NC", torch.zeros(bank, sum(channels)))
        self.register_buffer("scale_C", torch.ones(sum(channels)))

    @torch.no_grad()
    def fill(self, normals: Iterable[Sequence[Tensor]], images: int) -> None:
        """Fill the bank from the levels of `images` normals; with fewer cells than `bank`, all."""
        chosen: np.ndarray | None = None
        # `at` is the number of the first cell of a batch among all cells.
        kept, at = [], 0
        for levels in normals:
            cells_BChw = described(*levels)
            # Drawn as soon as their number is known, so only the drawn cells are kept in memory.
            if chosen is None:
                chosen = self._drawn(images * cells_BChw.shape[2] * cells_BChw.shape[3])
            cells_PC = cells_BChw.permute(0, 2, 3, 1).flatten(0, 2)
            low, high = np.searchsorted(chosen, (at, at + len(cells_PC)))
            kept.append(cells_PC[torch.from_numpy(chosen[low:high] - at).to(cells_PC.device)])
            at += len(cells_PC)
        cells_NC = torch.cat(kept)
        if self.subset == "greedy" and len(cells_NC) > self.bank:
            cells_NC = cells_NC[coreset_rows(self._scaled(cells_NC), self.bank, self.seed)]
        # Scaled again, as the root mean square is now that of the selected cells.
        self.bank_NC = self._scaled(cells_NC)

    def forward(self, *levels: Tensor) -> Tensor:
        """The distance of every cell of the first level to its nearest entry, (B, h, w)."""
        distances_BP = nearest_distances(self.cells(*levels), self.bank_NC)
        return distances_BP.unflatten(1, levels[0].shape[2:])

    def cells(self, *levels: Tensor) -> Tensor:
        """The scaled cells (B, P, C) of the levels."""
        scaled_BChw = described(*levels) / self.scale_C.view(-1, 1, 1)
        return scaled_BChw.flatten(2).transpose(1, 2)

    def _drawn(self, cells: int) -> np.ndarray:
        """Ascending numbers of the cells that enter the bank, or the coreset's candidates."""
        most = max(self.bank, CANDIDATES) if self.subset == "greedy" else self.bank
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(cells, min(most, cells), replace=False))

    def _scaled(self, cells_NC: Tensor) -> Tensor:
        """The cells, divided by the root mean square length of their level; sets `scale_C`."""
        self.scale_C = level_scales(cells_NC, self.channels)
        return cells_NC / self.scale_C


def described(*levels: Tensor) -> Tensor:
    """(B, C, h, w) float32: the averaged levels on the cells of the first, concatenated, not yet
    scaled."""
    # PatchCore's locally aware features: averages over 3 x 3 neighbourhoods.
    first, *others = (F.avg_pool2d(level.float(), 3, 1, 1) for level in levels)
    return torch.cat([first, *(_on_cells_of(first, other) for other in others)], 1)


def _on_cells_of(first_BChw: Tensor, other_BChw: Tensor) -> Tensor:
    return F.interpolate(other_BChw, first_BChw.shape[2:], mode="bilinear", align_corners=False)


def level_scales(cells_NC: Tensor, channels: Sequence[int]) -> Tensor:
    """(C,): the root mean square length of every level, whose widths are `channels`."""
    parts = cells_NC.split(list(channels), 1)
    return torch.cat([part.square().sum(1).mean().sqrt().expand(part.shape[1]) for part in parts])


def nearest_distances(cells_PC: Tensor, bank_NC: Tensor) -> Tensor:
    """The distance of every cell, (P, C) or (B, P, C), to its nearest entry of the bank."""
    # In chunks, because all distances at once can exceed the memory.
    nearest_P = torch.cdist(cells_PC, bank_NC[:CHUNK]).amin(-1)
    for at in range(CHUNK, len(bank_NC), CHUNK):
        part_P = torch.cdist(cells_PC, bank_NC[at : at + CHUNK]).amin(-1)
        nearest_P = torch.minimum(nearest_P, part_P)
    return nearest_P


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
