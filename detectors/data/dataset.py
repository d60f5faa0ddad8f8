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

from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.records import KINDS, SPLITS

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


class _View:
    """What a dataset shows: how many items, which arrays, and how to fill them."""

    names: tuple[str, ...]
    shapes: tuple[int, int]
    """How many images and how many masks an item has; `names` has them in this order."""

    def __init__(self, version: Version) -> None:
        self.version = version
        self.size_HW = version.image_size

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Fill the arrays and return the numbers that go with the items."""
        raise NotImplementedError


class _Normals(_View):
    names, shapes = ("image",), (1, 0)

    def __init__(self, version: Version, split: str | None) -> None:
        super().__init__(version)
        if split is not None and split not in SPLITS:
            raise UserError(f"expected one of {', '.join(SPLITS)}, got {split!r}")
        self.places = [
            (number, row)
            for number, shard in enumerate(version.shards)
            for row, side in enumerate(shard.array("originals/split").tolist())
            if split is None or SPLITS[side] == split
        ]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        self.fill(arrays[0], range(len(indices)), indices)
        return {}

    def fill(self, images: np.ndarray, places: Sequence[int], indices: Sequence[int]) -> None:
        """Put image `indices[k]` into `images[places[k]]`, in the order of the files."""
        chosen = [(self.places[index], place) for index, place in zip(indices, places, strict=True)]
        for (number, row), place in sorted(chosen):
            images[place] = self.version.shards[number].stored("originals/pixels", row)


class _Pairs(_View):
    names, shapes = ("original", "edited", "mask"), (2, 1)

    def __init__(self, table: SampleTable) -> None:
        super().__init__(table.version)
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        original, edited, mask = arrays
        self.table.batch(indices, SampleBatch(original, edited, mask.view(np.bool_)))
        return {"label": self.table.labels_N[indices], "kind": self.table.kinds_N[indices]}


class Sources(_View):
    """Items 0 to `normals` - 1 are the normals as they are, the rest their accepted samples."""

    names, shapes = ("original", "edited", "mask"), (2, 1)

    def __init__(self, version: Version, split: str | None) -> None:
        super().__init__(version)
        self.clean = _Normals(version, split)
        self.table = SampleTable(version, split)
        self.normals = len(self.clean)

    def __len__(self) -> int:
        return self.normals + len(self.table)

    def samples_of(self, kinds: Iterable[str]) -> list[list[int]]:
        """For each normal its items of those kinds, in order."""
        wanted = [KINDS.index(kind) for kind in kinds]
        number = {place: normal for normal, place in enumerate(self.clean.places)}
        items: list[list[int]] = [[] for _ in range(self.normals)]
        sources = [shard.array("samples/source").tolist() for shard in self.version.shards]
        for sample in np.flatnonzero(np.isin(self.table.kinds_N, wanted)).tolist():
            shard, row = int(self.table.shards_N[sample]), int(self.table.rows_N[sample])
            items[number[shard, sources[shard][row]]].append(self.normals + sample)
        return items

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        original, edited, mask = arrays
        index_N = np.array(indices, np.int64)
        clean, samples = (np.flatnonzero((index_N >= self.normals) == made) for made in (0, 1))
        self.clean.fill(original, clean.tolist(), index_N[clean].tolist())
        edited[clean], mask[clean] = original[clean], 0
        of_table = index_N[samples] - self.normals
        batch = SampleBatch(original, edited, mask.view(np.bool_))
        self.table.fill(batch, samples.tolist(), of_table.tolist())
        label_N, kind_N = np.zeros(len(indices), np.int64), np.full(len(indices), -1)
        label_N[samples] = self.table.labels_N[of_table]
        kind_N[samples] = self.table.kinds_N[of_table]
        return {"label": label_N, "kind": kind_N}


class _Test(_View):
    names, shapes = ("image", "mask"), (1, 1)

    def __init__(self, version: Version) -> None:
        super().__init__(version)
        self.places = [
            (number, row)
            for number, shard in enumerate(version.test_shards)
            for row in range(shard.images)
        ]

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        images, masks = arrays
        labels = np.zeros(len(indices), np.int64)
        for place, index in enumerate(indices):
            number, row = self.places[index]
            shard = self.version.test_shards[number]
            images[place] = shard.stored("images/pixels", row)
            masks[place] = shard.masks(row)[0].any(0)
            labels[place] = shard.label(row)
        return {"label": labels}
