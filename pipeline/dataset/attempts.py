"""The table of attempts: one row per attempt at a sample, including rejected and unplannable ones.

It is stored as Parquet, so which kinds fail and why can be queried without reading pixels. Gate
scores are flat columns `score_<name>`, null where an attempt was not measured. The rows themselves
are the records of `lineage.attempt_record`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pipeline.dataset.sample_id import sample_id
from pipeline.errors import IntegrityError

# Prefix of the columns of gate scores.
SCORE = "score_"
# Columns that only versions with a rule book have. A null there means that no rule was evaluated,
# so the row then lacks the key.
RULE_COLUMNS = ("rule", "broken")

# Rows that are turned into columns at once; as a dictionary each takes a kilobyte.
ROWS = 4096

T = TypeVar("T")


def write_attempts(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write attempt records, each with `seconds`, `shard` and `row` (None where not stored).

    They are iterated twice: `ROWS` at a time are held as dictionaries.
    """
    # Imported here: opening a version must not load PyArrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    # The types are stated, because Arrow cannot infer one from a column of nulls or of no rows.
    fields: list[tuple[str, Any]] = [
        ("image", pa.string()),
        ("split", pa.string()),
        ("number", pa.int32()),
        ("attempt", pa.int32()),
        ("kind", pa.string()),
        ("seed", pa.uint64()),
        ("accepted", pa.bool_()),
        ("reason", pa.string()),
        ("seconds", pa.float64()),
        ("shard", pa.string()),
        ("row", pa.int32()),
    ]
    scores, ruled = set[str](), False
    for row in rows:
        scores.update(row["scores"])
        ruled = ruled or "rule" in row
    # A version without a rule book has none of these columns.
    if ruled:
        fields += [("rule", pa.string()), ("broken", pa.list_(pa.string()))]
    # One column per score that any attempt has; sorted, so equal runs write equal files.
    fields += [(SCORE + name, pa.float64()) for name in sorted(scores)]
    schema, left = pa.schema(fields), iter(rows)
    tables = [schema.empty_table()]
    while some := list(islice(left, ROWS)):
        flat = [row | {SCORE + key: score for key, score in row["scores"].items()} for row in some]
        columns = {name: [row.get(name) for row in flat] for name in schema.names}
        tables.append(pa.Table.from_pydict(columns, schema))
    pq.write_table(pa.concat_tables(tables).combine_chunks(), path)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_attempts` was given; IntegrityError for a missing or damaged file."""
    return [_nested(row) for row in _read(path, lambda table: table.to_pylist())]


def read_tries(path: Path, image: str, number: int) -> list[dict[str, Any]]:
    """The attempts at one sample of one image, in order: number, kind and reason of rejection.

    Only these rows are read, as a version may have a million others.
    """
    columns = ["attempt", "kind", "accepted", "reason"]
    wanted = [("image", "==", image), ("number", "==", number)]
    rows = _read(path, lambda table: table.to_pylist(), columns=columns, filters=wanted)
    return sorted(rows, key=lambda row: row["attempt"])


@dataclass(frozen=True, slots=True, eq=False)
class Accepted:
    """The accepted attempts of a version as columns, in its order: N samples.

    `shards` and `rows` say where each is stored, `scores` are (N,) float64 by name, NaN where an
    attempt was not measured.
    """

    ids: list[str]
    kinds: list[str]
    shards: list[str]
    rows: list[int]
    scores: dict[str, np.ndarray]


def read_accepted(path: Path) -> Accepted:
    """The accepted attempts, without a Python object for each row and score: for large versions.

    IntegrityError for a missing or damaged file.
    """
    return _read(path, _accepted, filters=[("accepted", "==", True)])


def _accepted(table: Any) -> Accepted:
    names = ("image", "number", "attempt", "kind", "shard", "row")
    images, numbers, tries, kinds, shards, rows = (table[n].to_pylist() for n in names)
    scores = {
        name.removeprefix(SCORE): np.asarray(table[name], np.float64)
        for name in table.column_names
        if name.startswith(SCORE)
    }
    ids = list(map(sample_id, images, numbers, tries))
    return Accepted(ids, kinds, shards, rows, scores)


def _read(path: Path, take: Callable[[Any], T], **options: Any) -> T:
    """What `take` makes of the table; IntegrityError for a missing or damaged file."""
    # Imported here: opening a version must not load PyArrow.
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return take(pq.read_table(path, **options))
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; copy the whole version") from None
    except (OSError, KeyError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error


def canonical_attempts(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The rows without duration and storage location: what the digest of a dataset covers."""
    for row in rows:
        yield {key: row[key] for key in row if key not in ("seconds", "shard", "row")}


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the file with its score columns gathered under `scores`."""
    flat = {
        key: value
        for key, value in row.items()
        if not key.startswith(SCORE) and not (key in RULE_COLUMNS and value is None)
    }
    scores = {
        key.removeprefix(SCORE): value
        for key, value in row.items()
        if key.startswith(SCORE) and value is not None
    }
    return flat | {"scores": scores}
