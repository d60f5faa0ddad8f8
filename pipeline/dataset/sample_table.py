"""The samples of a version as one numbered list over all its shards, read in batches.

The list is built from small columns only, so selecting by split, kind or label reads no pixels. A
batch visits its shards and rows in file order and returns the samples in the requested order.
"""

from collections.abc import Iterable, Sequence
from copy import copy
from typing import Any

import numpy as np

from pipeline.dataset.shard_reader import SampleBatch, ShardReader
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.kinds import KINDS
from pipeline.records import SPLITS


class SampleTable:
    """Accepted samples of a version, all or some, numbered from 0 in the order of the version.

    `shards_N` and `rows_N` (int64) say where each is stored, `labels_N` is 0 normal or 1 anomalous,
    `kinds_N` indexes `KINDS`, and `sources_N` is the row of the original in the same shard. Cheap
    to pickle and safe to fork.
    """

    def __init__(
        self,
        version: Version,
        split: str | None = None,
        kinds: Iterable[str] | None = None,
        label: int | None = None,
    ) -> None:
        self.version = version
        wanted = list(KINDS) if kinds is None else [_known(kind, KINDS) for kind in kinds]
        side = None if split is None else SPLITS.index(_known(split, SPLITS))
        if label not in (None, 0, 1):
            raise UserError(f"a label is 0 (normal) or 1 (anomalous), got {label!r}")
        # Per shard: its number, the selected rows, their labels and kinds.
        columns = []
        for number, shard in enumerate(version.shards):
            # Small columns, read once and kept by the reader.
            kind_M = _renumbered(shard)
            label_M = shard.array("samples/label")
            good_M = np.isin(kind_M, [KINDS.index(kind) for kind in wanted])
            # The split belongs to the source image, so it is looked up through `source`.
            if side is not None:
                good_M &= shard.array("originals/split")[shard.array("samples/source")] == side
            if label is not None:
                good_M &= label_M == label
            rows = np.flatnonzero(good_M)
            source_M = shard.array("samples/source")
            columns.append(
                (np.full(len(rows), number), rows, label_M[rows], kind_M[rows], source_M[rows])
            )
        # The leading empty array sets the dtype and covers versions without any sample.
        self._set(
            np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)
            for parts in (zip(*columns, strict=True) if columns else ([],) * 5)
        )

    def chosen(self, indices: Sequence[int]) -> "SampleTable":
        """The table of these samples alone, numbered anew in their order."""
        table = copy(self)
        picked = np.asarray(indices, np.int64)
        columns = self.shards_N, self.rows_N, self.labels_N, self.kinds_N, self.sources_N
        table._set(column[picked] for column in columns)
        return table

    def _set(self, columns: Iterable[np.ndarray]) -> None:
        """Set all columns, in the order of the class's docstring."""
        self.shards_N, self.rows_N, self.labels_N, self.kinds_N, self.sources_N = columns
        # Plain lists: indexing an array element by element is several times slower.
        self._shards, self._rows = self.shards_N.tolist(), self.rows_N.tolist()

    def __len__(self) -> int:
        return len(self.rows_N)

    def place(self, index: int) -> tuple[ShardReader, int]:
        """The shard of a sample and its row there."""
        return self.version.shards[self._shards[index]], self._rows[index]

    def places(self) -> list[tuple[int, int]]:
        """Shard (as in `Version.shards`) and row of every sample."""
        return list(zip(self._shards, self._rows, strict=True))

    def record(self, index: int) -> dict[str, Any]:
        """The lineage of a sample."""
        shard, row = self.place(index)
        return shard.record(row)

    def batch(self, indices: Sequence[int], out: SampleBatch | None = None) -> SampleBatch:
        """Samples in any order, repeats allowed, written to the start of `out` when it is given.

        The result shares the memory of `out`, so the next batch into it overwrites this one.
        """
        if out is None:
            out = SampleBatch.empty(len(indices), self.version.image_size)
        # The last batch of an epoch may be shorter than the memory that is reused.
        out = out.head(len(indices))
        self.fill(out, range(len(indices)), indices)
        return out

    def fill(self, out: SampleBatch, places: Sequence[int], indices: Sequence[int]) -> None:
        """Put sample `indices[k]` into place `places[k]` of `out`; the other places stay."""
        # Rows and places by shard. Plain lists, because they are short.
        runs: dict[int, list[tuple[int, int]]] = {}
        for place, index in zip(places, indices, strict=True):
            runs.setdefault(self._shards[index], []).append((self._rows[index], place))
        readers = self.version.shards
        for shard, run in sorted(runs.items()):
            # With one shard `places` may stay a range, for which `ShardReader.fill` is faster.
            if len(runs) == 1:
                rows = [row for row, _ in run]
            else:
                run.sort()
                rows, places = [row for row, _ in run], [place for _, place in run]
            readers[shard].fill(out, places, rows)


def _renumbered(shard: ShardReader) -> np.ndarray:
    """The kinds of a shard's samples as indices into `KINDS`, which may have grown since."""
    numbers = [KINDS.index(_known(kind, KINDS)) for kind in shard.kinds]
    return np.array(numbers, np.int64)[shard.array("samples/kind")]


def _known(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise UserError(f"expected one of {', '.join(names)}, got {name!r}")
    return name
