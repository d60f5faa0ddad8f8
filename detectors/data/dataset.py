"""A dataset version as PyTorch sees it: normal images, pairs with masks, and the real test split.

    pairs = VersionDataset.pairs(version, split="train")
    for batch in loader(pairs, batch_size=16, seed=0):
        batch["edited"]        # (B, 3, H, W) uint8

Pixels stay uint8: turning them into floats costs more than reading them, so the model's first
operation does it, on the device. Images are (B, 3, H, W) over memory that lies B, H, W, 3, which
PyTorch calls channels_last and convolutions like best. Masks are (B, H, W) uint8, 0 or 1.

Memory is used again only when nobody holds a tensor in it any more, so keeping a batch is safe;
letting go of it saves the cost of fresh pages. Files are opened in the process that reads them.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from detectors.data.views import Sources, _Normals, _Pairs, _Test, _View
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.version import Version
from pipeline.errors import UserError

Batch = dict[str, Tensor]
POOL = 4
"""Batches of memory that a dataset keeps for another use."""


class Loaded(Sequence[Batch]):
    """A batch that is already made: a list of items for PyTorch, `whole` for `as_made`."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole["index"])

    def __getitem__(self, place: Any) -> Any:
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return {name: tensor[place] for name, tensor in self.whole.items()}


def as_made(items: Any) -> Batch:
    """The collate function for these datasets: hands a batch over without copying it."""
    if isinstance(items, Loaded):
        return items.whole
    return torch.utils.data.default_collate(items)


class VersionDataset(Dataset[Batch]):
    """One view of a version. Made by `normals`, `pairs`, `sources` or `test`.

    | view | items |
    |---|---|
    | normals | `image` |
    | pairs | `original`, `edited`, `mask`, `label` (0 normal, 1 anomalous), `kind` (of `KINDS`) |
    | sources | the same; first every normal as its own edit (`kind` -1), then all its samples |
    | test | `image`, `mask` (all ground-truth regions of the image), `label` |

    and in each `index`, the item's number in this dataset; numbers are int64. A missing or damaged
    shard raises IntegrityError with its name, also out of a loader's worker.
    """

    def __init__(self, view: "_View") -> None:
        self.view = view
        self._pool = _Pool()

    @classmethod
    def normals(cls, version: Version, split: str | None = "train") -> Self:
        """The good images of a split, or of all."""
        return cls(_Normals(version, split))

    @classmethod
    def pairs(
        cls,
        version: Version,
        split: str | None = "train",
        kinds: Iterable[str] | None = None,
        label: int | None = None,
    ) -> Self:
        """The accepted samples with their originals, of a split, of some kinds, of one label."""
        return cls(_Pairs(SampleTable(version, split, kinds, label)))

    @classmethod
    def sources(cls, version: Version, split: str | None = "train") -> Self:
        """The normals of a split unedited, then their accepted samples; see `SourceSampler`."""
        return cls(Sources(version, split))

    @classmethod
    def test(cls, version: Version) -> Self:
        """The real test split, to be scored and for nothing else."""
        return cls(_Test(version))

    def __len__(self) -> int:
        return len(self.view)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Loaded:
        indices = [range(len(self))[index] for index in indices]  # IndexError; negatives count back
        images, masks = self.view.shapes
        arrays = [
            self._pool.take((len(indices), *self.view.size_HW, *tail))
            for tail in (*[(3,)] * images, *[()] * masks)
        ]
        numbers = self.view.read(indices, arrays)
        tensors = [torch.from_numpy(array) for array in arrays]
        whole = dict(zip(self.view.names, tensors, strict=True))
        whole = {n: t.permute(0, 3, 1, 2) if t.ndim == 4 else t for n, t in whole.items()}
        numbers["index"] = np.array(indices, np.int64)
        return Loaded(whole | {name: torch.from_numpy(array) for name, array in numbers.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {"view": self.view}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["view"])  # type: ignore[misc]


class EpochSampler(Sampler[int]):
    """Indices in an order that depends on seed and epoch alone, shared out over ranks.

    Every rank gets the same number of steps: the order is filled up from its own beginning, as
    PyTorch's DistributedSampler does. `even=False` gives each index exactly once instead, for
    measuring. Call `set_epoch` before each epoch.
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
            order = np.resize(order, -(-self.length // self.ranks) * self.ranks)
        return iter(order[self.rank :: self.ranks].tolist())


def loader(
    dataset: VersionDataset, batch_size: int, seed: int = 0, shuffle: bool = True, **options: Any
) -> DataLoader[Batch]:
    """A DataLoader over a version; `options` are PyTorch's. Its sampler has `set_epoch`.

    Zero workers are the fastest for the `default` and `fast` profiles: reading a sample takes less
    time than sending it from one process to another.
    """
    options = {"sampler": EpochSampler(len(dataset), seed, shuffle)} | options
    return DataLoader(dataset, batch_size, collate_fn=as_made, **options)


class _Pool:
    """Arrays to be filled again, once every tensor that looks into them is gone."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array of that shape whose memory nobody else holds."""
        size = int(np.prod(shape))
        for place, array_size in enumerate([array.size for array in self.arrays]):
            if size <= array_size < 2 * size + 1 and _holders(self.arrays, place) == _NOBODY:
                return self.arrays[place][:size].reshape(shape)
        array = np.empty(size, np.uint8)
        self.arrays = [*self.arrays, array][-3 * POOL :]
        return array[:size].reshape(shape)


def _holders(arrays: list[np.ndarray], place: int) -> int:
    """How often an array is referred to; a tensor or a view of it counts as well."""
    return sys.getrefcount(arrays[place])


_NOBODY = _holders([np.empty(0, np.uint8)], 0)
