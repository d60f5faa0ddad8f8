"""What a dataset delivers per index: normals, pairs, sources with their samples, test images.

A view knows which rows of which shards an index stands for, and fills arrays that
`detectors.data.dataset` allocates. Images are (B, H, W, 3) uint8, masks (B, H, W) uint8.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.kinds import KINDS
from pipeline.records import SPLITS

# Shard and row of an image, a normal or a sample.
Place = tuple[int, int]
# How much single samples count: 0 leaves a sample out, samples without an entry count 1.
Weights = Mapping[Place, float]
NO_WEIGHTS: Weights = {}


class DatasetView:
    """Base: how many items, which arrays an item has, and how to fill them."""

    names: tuple[str, ...]
    # Numbers of images and of masks per item; `names` lists the images first.
    shapes: tuple[int, int]

    def __init__(self, version: Version) -> None:
        self.version = version
        self.size_HW = version.image_size

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Fill the arrays with these items and return their numbers, such as labels, as int64."""
        raise NotImplementedError


def normal_places(version: Version, split: str | None) -> list[Place]:
    """Where the normals of a split, or of all splits, are stored, in the order of the version."""
    if split is not None and split not in SPLITS:
        raise UserError(f"expected one of {', '.join(SPLITS)}, got {split!r}")
    return [
        (number, row)
        for number, shard in enumerate(version.shards)
        for row, code in enumerate(shard.array("originals/split").tolist())
        if split is None or SPLITS[code] == split
    ]


def samples_of(table: SampleTable, places: Sequence[Place]) -> list[list[int]]:
    """For each normal the numbers of its samples in the table, ascending."""
    number = {place: normal for normal, place in enumerate(places)}
    found: list[list[int]] = [[] for _ in places]
    sources = zip(table.shards_N.tolist(), table.sources_N.tolist(), strict=True)
    for sample, source in enumerate(sources):
        # Samples of normals that are not asked for belong to nobody here.
        if source in number:
            found[number[source]].append(sample)
    return found


class NormalsView(DatasetView):
    """The normal images at some places."""

    names, shapes = ("image",), (1, 0)

    def __init__(self, version: Version, places: Sequence[Place]) -> None:
        super().__init__(version)
        self.places = list(places)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        self.fill(arrays[0], range(len(indices)), indices)
        return {}

    def fill(self, images: np.ndarray, places: Sequence[int], indices: Sequence[int]) -> None:
        """Put image `indices[k]` into `images[places[k]]`."""
        chosen = [(self.places[index], place) for index, place in zip(indices, places, strict=True)]
        # Sorted by shard and row, so files are read from front to back.
        for (number, row), place in sorted(chosen):
            images[place] = self.version.shards[number].stored("originals/pixels", row)


class PairsView(DatasetView):
    """Accepted samples with their originals."""

    names, shapes = ("original", "edited", "mask"), (2, 1)

    def __init__(self, table: SampleTable) -> None:
        super().__init__(table.version)
        self.table = table

    def __len__(self) -> int:
        return len(self.table)

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        original, edited, mask = arrays
        # The reader expects bool masks; bool and uint8 have the same memory layout.
        self.table.batch(indices, SampleBatch(original, edited, mask.view(np.bool_)))
        return {"label": self.table.labels_N[indices], "kind": self.table.kinds_N[indices]}


class SourcesView(DatasetView):
    """Items 0 to `normals` - 1 are the unedited normals, the rest their accepted samples."""

    names, shapes = ("original", "edited", "mask"), (2, 1)

    def __init__(
        self, version: Version, places: Sequence[Place], weights: Weights = NO_WEIGHTS
    ) -> None:
        super().__init__(version)
        self.clean = NormalsView(version, places)
        table = SampleTable(version)
        weight_M = [weights.get(place, 1.0) for place in table.places()]
        # Only samples whose original is an item, in the order of the version.
        mine = sorted(
            sample
            for samples in samples_of(table, places)
            for sample in samples
            if weight_M[sample] > 0
        )
        self.table = table.chosen(mine)
        # By item; empty where all count the same.
        self.weights = {
            len(places) + item: weight_M[sample]
            for item, sample in enumerate(mine)
            if weight_M[sample] < 1
        }
        self.normals = len(self.clean)

    def __len__(self) -> int:
        return self.normals + len(self.table)

    def samples_of(self, kinds: Iterable[str]) -> list[list[int]]:
        """For each normal the items of its samples of those kinds, in ascending order."""
        wanted = {KINDS.index(kind) for kind in kinds}
        kinds_N = self.table.kinds_N.tolist()
        return [
            [self.normals + sample for sample in samples if kinds_N[sample] in wanted]
            for samples in samples_of(self.table, self.clean.places)
        ]

    def read(self, indices: list[int], arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        original, edited, mask = arrays
        index_N = np.array(indices, np.int64)
        # Places in the batch: unedited normals (0), then samples (1).
        clean, samples = (
            np.flatnonzero((index_N >= self.normals) == is_sample) for is_sample in (0, 1)
        )
        self.clean.fill(original, clean.tolist(), index_N[clean].tolist())
        # A normal is its own edit, with an empty mask.
        edited[clean], mask[clean] = original[clean], 0
        of_table = index_N[samples] - self.normals
        batch = SampleBatch(original, edited, mask.view(np.bool_))
        self.table.fill(batch, samples.tolist(), of_table.tolist())
        # Kind -1 marks the unedited normals, which belong to no kind of edit.
        label_N, kind_N = np.zeros(len(indices), np.int64), np.full(len(indices), -1)
        label_N[samples] = self.table.labels_N[of_table]
        kind_N[samples] = self.table.kinds_N[of_table]
        return {"label": label_N, "kind": kind_N}


class TestSplitView(DatasetView):
    """The real test images. Their mask is the union of all ground-truth regions."""

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
