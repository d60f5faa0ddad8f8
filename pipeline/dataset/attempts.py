"""The table of attempts: one row per try at a sample, the rejected and the impossible ones too.

It is stored as Parquet, because people ask it questions (which kinds fail, and why) that need no
pixels. Gate scores are flat columns `score_<name>`, null where a try was not measured.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError

SCORE = "score_"
JUDGED = ("rule", "broken")
"""Columns of versions with a rule book; null, and no key of the row, where none was asked."""


def write_attempts(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write attempt records, each with `seconds`, `shard` and `row` (None where not stored)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in fields}
    if any("rule" in row for row in rows):  # a version without a rule book has no such columns
        columns["rule"] = pa.array([row.get("rule") for row in rows], pa.string())
        columns["broken"] = pa.array([row.get("broken") for row in rows], pa.list_(pa.string()))
    for name in sorted({name for row in rows for name in row["scores"]}):
        columns[SCORE + name] = pa.array([row["scores"].get(name) for row in rows], pa.float64())
    pq.write_table(pa.table(columns), path)


def read_attempts(path: Path) -> list[dict[str, Any]]:
    """The rows that `write_attempts` was given."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist()
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; copy the whole version") from None
    except (OSError, pa.ArrowException) as error:
        raise IntegrityError(f"{path} is damaged: {error}") from error
    return [_nested(row) for row in rows]


def canonical_attempts(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The rows without duration and place: what the digest of a dataset covers."""
    for row in rows:
        yield {key: row[key] for key in row if key not in ("seconds", "shard", "row")}


def _nested(row: dict[str, Any]) -> dict[str, Any]:
    flat = {
        key: value
        for key, value in row.items()
        if not key.startswith(SCORE) and not (key in JUDGED and value is None)
    }
    scores = {
        key.removeprefix(SCORE): value
        for key, value in row.items()
        if key.startswith(SCORE) and value is not None
    }
    return flat | {"scores": scores}
