"""A dataset version as PyTorch datasets: normals, pairs with masks, and the real test split.

    pairs = VersionDataset.pairs(version, split="train")
    for batch in loader(pairs, batch_size=16, seed=0):
        batch["edited"]        # (B, 3, H, W) uint8

Pixels stay uint8: converting them to float costs more than reading them, so the model does it first
thing, on the device. Images have shape (B, 3, H, W) and memory order B, H, W, 3, PyTorch's
channels_last, in which convolutions are fastest. Masks are (B, H, W) uint8, 0 or 1.

Memory of a batch is reused only after its last tensor is gone, so keeping a batch is safe, and
dropping it saves the cost of fresh pages. Files are opened in the process that reads them.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detectors.data.views import (
    NO_WEIGHTS,
    DatasetView,
    NormalsView,
    PairsView,
    Place,
    SourcesView,
    TestSplitView,
    Weights,
    normal_places,
)
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.version import Version
from pipeline.errors import UserError

Batch = dict[str, Tensor]
# Batches whose memory a dataset keeps for reuse.
POOL = 4


class LoadedBatch(Sequence[Batch]):
    """A batch that is already collated.

    PyTorch sees a list of items, as `__getitems__` must return one; `collate` takes `batch`.
    """

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["index"])

    def __getitem__(self, place: Any) -> Any:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return {name: tensor[place] for name, tensor in self.batch.items()}


def collate(items: Any) -> Batch:
    """The collate function for these datasets: passes a batch on without copying it."""
    if isinstance(items, LoadedBatch):
        return items.batch
    return torch.utils.data.default_collate(items)


class VersionDataset(Dataset[Batch]):
    """One view of a version. Made by `normals`, `pairs`, `sources` or `test`.

    | view | items |
    |---|---|
    | normals | `image` |
    | pairs | `original`, `edited`, `mask`, `label` (0 normal, 1 anomalous), `kind` (of `KINDS`) |
    | sources | the same; first every normal as its own edit (`kind` -1), then all its samples |
    | test | `image`, `mask` (all ground-truth regions of the image), `label` |

    Each also has `index`, the item's number in this dataset. Numbers are int64. A missing or
    damaged shard raises IntegrityError with its name, also from a worker of a loader.
    """

    def __init__(self, view: DatasetView) -> None:
        self.view = view
        self._pool = _Pool()

    @classmethod
    def normals(cls, version: Version, split: str | None = "train") -> Self:
        """The normal images of a split, or of all splits."""
        return cls.normals_at(version, normal_places(version, split))

    @classmethod
    def normals_at(cls, version: Version, places: Sequence[Place]) -> Self:
        """The normal images at these places."""
        return cls(NormalsView(version, places))

    @classmethod
    def pairs(
        cls,
        version: Version,
        split: str | None = "train",
        kinds: Iterable[str] | None = None,
        label: int | None = None,
    ) -> Self:
        """The accepted samples with their originals, filtered by split, kinds and label."""
        return cls(PairsView(SampleTable(version, split, kinds, label)))

    @classmethod
    def sources(cls, version: Version, split: str | None = "train") -> Self:
        """The unedited normals of a split, then their accepted samples; see `SourceSampler`."""
        return cls.sources_at(version, normal_places(version, split))

    @classmethod
    def sources_at(
        cls, version: Version, places: Sequence[Place], weights: Weights = NO_WEIGHTS
    ) -> Self:
        """The unedited normals at these places, then their accepted samples of weight above 0."""
        return cls(SourcesView(version, places, weights))

    @classmethod
    def pairs_at(
        cls, version: Version, places: Sequence[Place], weights: Weights = NO_WEIGHTS
    ) -> Self:
        """The accepted samples of the normals at these places, in the order of the version.

        Samples of weight 0 are left out, other weights make no difference.
        """
        return cls(PairsView(SourcesView(version, places, weights).table))

    @classmethod
    def test(cls, version: Version) -> Self:
        """The real test split, for scoring only."""
        return cls(TestSplitView(version))

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> LoadedBatch:
        # PyTorch calls this with a whole batch, so shards are read once per batch, not per item.
        # Indexing a range checks bounds (IndexError) and resolves negative indices.
        indices = [range(len(self))[index] for index in indices]
        images, masks = self.view.shapes
        arrays = [
            self._pool.take((len(indices), *self.view.size_HW, *tail))
            for tail in (*[(3,)] * images, *[()] * masks)
        ]
        numbers = self.view.read(indices, arrays)
        tensors = [torch.from_numpy(array) for array in arrays]
        batch = dict(zip(self.view.names, tensors, strict=True))
        # (B, H, W, 3) memory becomes a (B, 3, H, W) view in channels_last order, without a copy.
        batch = {n: t.permute(0, 3, 1, 2) if t.ndim == 4 else t for n, t in batch.items()}
        numbers["index"] = np.array(indices, np.int64)
        return LoadedBatch(
            batch | {name: torch.from_numpy(array) for name, array in numbers.items()}
        )

    # Workers get the view only: pooled memory belongs to the process that filled it.
    def __getstate__(self) -> dict[str, Any]:
        return {"view": self.view}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["view"])  # type: ignore[misc]


class EpochSampler(Sampler[int]):
    """Indices in an order that depends only on seed and epoch, divided among ranks.

    Every rank gets the same number of steps: the order is padded from its own beginning, as by
    PyTorch's DistributedSampler. With `even=False` each index comes exactly once, for evaluation.
    Call `set_epoch` before each epoch.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        ranks: int = 1,
        even: bool = True,
    ) -> None:
        if not 0 <= rank < ranks:
            raise UserError(f"the rank must be 0 to {ranks - 1}, got {rank}")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.rank, self.ranks, self.even = rank, ranks, even
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        fewer = 0 if self.even else self.rank
        return (self.length - fewer + self.ranks - 1) // self.ranks

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        if self.even and self.length:
            # Ceiling division: the next multiple of the number of ranks.
            order = np.resize(order, -(-self.length // self.ranks) * self.ranks)
        return iter(order[self.rank :: self.ranks].tolist())


def loader(
    dataset: VersionDataset, batch_size: int, seed: int = 0, shuffle: bool = True, **options: Any
) -> DataLoader[Batch]:
    """A DataLoader over a version; `options` are PyTorch's. Its sampler has `set_epoch`.

    No workers are fastest for the `default` and `fast` profiles: reading a sample takes less time
    than sending it to another process.
    """
    options = {"sampler": EpochSampler(len(dataset), seed, shuffle)} | options
    return DataLoader(dataset, batch_size, collate_fn=collate, **options)


class _Pool:
    """Arrays that are filled again once every tensor that shares their memory is gone."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array of that shape whose memory nothing else refers to."""
        size = int(np.prod(shape))
        # At most twice the size, so small batches do not occupy the memory of large ones.
        for place, array_size in enumerate([array.size for array in self.arrays]):
            if size <= array_size < 2 * size + 1 and _holders(self.arrays, place) == _NOBODY:
                return self.arrays[place][:size].reshape(shape)
        array = np.empty(size, np.uint8)
        # The newest arrays of `POOL` batches: a pair takes three (original, edited, mask).
        self.arrays = [*self.arrays, array][-3 * POOL :]
        return array[:size].reshape(shape)


def _holders(arrays: list[np.ndarray], place: int) -> int:
    """How many references an array has; tensors and views that share its memory count as well."""
    return sys.getrefcount(arrays[place])


# The count for an array that only the list refers to, measured rather than assumed: it differs
# between versions of Python.
_NOBODY = _holders([np.empty(0, np.uint8)], 0)
