"""What a dataset delivers per index: normals, pairs, sources with their samples, test images."""

from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.kinds import KINDS
from pipeline.records import SPLITS


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
