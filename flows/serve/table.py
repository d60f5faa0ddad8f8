"""The samples of a version as columns, so that 100 000 of them are filtered and sorted at once.

Built from the table of attempts alone, without opening a shard: one row per stored sample, the
accepted ones first in the order of the version (their row is the number that `show` takes), then
the rejected ones that were kept.

Shapes: N samples. Codes index the list of names of their column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.dataset.attempts import SCORE
from pipeline.dataset.files import RECORDS
from pipeline.dataset.sample_id import parsed, sample_id
from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import REPAIR, Version
from pipeline.errors import IntegrityError
from pipeline.kinds import is_control
from pipeline.review.state import JOINTS

# What the gate said, and whether the sample shows an anomaly.
VERDICTS = ("accepted", "control", "rejected")
# What reviewers said; `new` when nobody did.
REVIEWS = ("new", *JOINTS)
_COLUMNS = ("image", "split", "number", "attempt", "kind", "accepted", "reason", "shard", "row")


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """A column of repeated texts: `codes_N` int32 into `names`, -1 for none."""

    names: tuple[str, ...]
    codes_N: np.ndarray

    def __getitem__(self, row: int) -> str:
        code = int(self.codes_N[row])
        return self.names[code] if code >= 0 else ""

    def among(self, wanted: Sequence[str]) -> np.ndarray:
        """(N,) bool, where the text is one of these."""
        # One more for the code -1.
        good = np.array([*(name in wanted for name in self.names), False])
        return good[self.codes_N]

    def containing(self, text: str) -> np.ndarray:
        """(N,) bool, where the text contains this one, in upper or lower case."""
        low = text.lower()
        # One more for the code -1.
        good = np.array([*(low in name.lower() for name in self.names), False])
        return good[self.codes_N]

    def counts(self, among_N: np.ndarray) -> dict[str, int]:
        """How often each name occurs in the rows of a mask; those that never do are left out."""
        codes = self.codes_N[among_N]
        found = np.bincount(codes[codes >= 0], minlength=len(self.names))
        return {name: int(n) for name, n in zip(self.names, found, strict=True) if n}


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The stored samples of one version. `shard_N` indexes `shards`, `row_N` counts inside it."""

    shards: tuple[ShardReader, ...]
    shard_N: np.ndarray
    row_N: np.ndarray
    number_N: np.ndarray
    attempt_N: np.ndarray
    image: Names
    split: Names
    kind: Names
    verdict: Names
    reason: Names
    rule: Names
    # What reviewers say together, of REVIEWS; none for samples that the gate rejected.
    review: Names
    # (N,) float64 by name, NaN where the sample was not measured.
    scores: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.row_N)

    @property
    def accepted(self) -> int:
        """How many samples were accepted; they come first."""
        return int(np.count_nonzero(self.verdict.codes_N != VERDICTS.index("rejected")))

    def id(self, row: int) -> str:
        """The id of a sample, as the gallery shows it and `show` takes it."""
        return sample_id(self.image[row], self.number_N[row], self.attempt_N[row])

    def reviewed(self, said: Mapping[int, str]) -> "Table":
        """The same table with what reviewers say, of REVIEWS, by row."""
        codes_N = self.review.codes_N.copy()
        for row, verdict in said.items():
            codes_N[row] = REVIEWS.index(verdict)
        return replace(self, review=Names(REVIEWS, codes_N))

    def find(self, sample: str) -> int | None:
        """The row of a sample with that id, or None."""
        if (found := parsed(sample)) is None:
            return None
        image, number, attempt = found
        same_N = self.image.among([image])
        same_N &= (self.number_N == number) & (self.attempt_N == attempt)
        rows = np.flatnonzero(same_N)
        return int(rows[0]) if len(rows) else None


def read_table(version: Version) -> Table:
    """The table of a version; IntegrityError when its file of attempts is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = version.dir / RECORDS
    try:
        found = pq.read_table(path)
        found = found.filter(found["shard"].is_valid())
        columns = {name: found[name] for name in _COLUMNS}
        return _built(version, columns, found)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; copy the whole version") from None
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is damaged: {error}; {REPAIR}") from error


def _built(version: Version, columns: dict[str, Any], found: Any) -> Table:
    """The columns in the order of the version."""
    readers = (*version.shards, *((version.rejects,) if version.rejects else ()))
    files = {reader.path.name: number for number, reader in enumerate(readers)}
    shard, row = _names(columns["shard"]), columns["row"].to_numpy().astype(np.int64)
    # The file may come from somebody else: it names shards and rows that are read later.
    places = np.array([files[name] for name in shard.names], np.int64)
    shard_N = places[shard.codes_N] if len(places) else np.zeros(0, np.int64)
    _expect_rows(version, shard_N, row, files)
    order = np.lexsort((row, shard_N))

    def texts(name: str) -> Names:
        column = _names(columns[name] if name in columns else found[name])
        return Names(column.names, column.codes_N[order])

    kind, accepted = texts("kind"), columns["accepted"].to_numpy()[order]
    control_N = kind.among([name for name in kind.names if is_control(name)])
    verdict_N = np.where(accepted, np.where(control_N, 1, 0), 2).astype(np.int32)
    scores = {
        name.removeprefix(SCORE): found[name].to_numpy()[order].astype(np.float64)
        for name in found.column_names
        if name.startswith(SCORE)
    }
    return Table(
        readers,
        shard_N[order],
        row[order],
        columns["number"].to_numpy()[order],
        columns["attempt"].to_numpy()[order],
        texts("image"),
        texts("split"),
        kind,
        Names(VERDICTS, verdict_N),
        _without_empty(texts("reason")),
        _without_empty(texts("rule")) if "rule" in found.column_names else _none(len(order)),
        Names(REVIEWS, np.where(accepted, 0, -1).astype(np.int32)),
        # Scores that no stored sample has are of no use here.
        {name: column for name, column in scores.items() if not np.isnan(column).all()},
    )


def _expect_rows(
    version: Version, shard_N: np.ndarray, row_N: np.ndarray, files: dict[str, int]
) -> None:
    """ValueError unless every row lies in its shard, by the counts of the index."""
    held = {info["file"]: info["samples"] for info in version.index["shards"]}
    for file, number in files.items():
        rows = row_N[shard_N == number]
        if len(rows) and not 0 <= rows.min() <= rows.max() < held[file]:
            raise ValueError(f"it names row {rows.max()} of {file}, which holds {held[file]}")


def _names(column: Any) -> Names:
    """A column of texts as codes; nulls are -1."""
    import pyarrow as pa

    # One dictionary for all chunks; a column without rows has no chunk at all.
    coded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    chunk = coded.chunk(0) if isinstance(coded, pa.ChunkedArray) else coded
    codes = chunk.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return Names(tuple(chunk.dictionary.to_pylist()), codes.astype(np.int32))


def _without_empty(column: Names) -> Names:
    """The column with -1 for empty texts, so that no filter offers them."""
    if "" not in column.names:
        return column
    codes = column.codes_N
    return Names(column.names, np.where(codes == column.names.index(""), -1, codes))


def _none(count: int) -> Names:
    return Names((), np.full(count, -1, np.int32))
