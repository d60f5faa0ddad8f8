"""The table of scores: one row per image, kept in a file while a run goes on.

`FILE.DIGEST.part` beside the output holds the rows of an unfinished run: those of the CSV, and
what tells whether an image is still the same. A run that was killed loses at most the batch it was
working on: the same command takes the rows from there. The digest is that of the checkpoint and
the options that a score depends on, so no row is taken for one of another run.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

from detectors.base import Box, Reason
from detectors.evaluation.results import THRESHOLDS
from pipeline.utils.files import locked_for_appending, named_disk_errors
from pipeline.utils.hashing import digest_of
from pipeline.utils.names import text_of

Verdict = Literal["normal", "anomalous", "unknown"]
COLUMNS = ("path", "score", "verdict", *THRESHOLDS, "map", "overlay", "reasons", "error")
# What an unfinished run needs besides: ends of the grey scale, the reasons with their boxes, the
# annotated picture, size and time of the image file.
_KEPT = (*COLUMNS, "low", "high", "why", "picture", "bytes", "modified")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image. `over` says for every threshold of the checkpoint whether `score >= threshold`.

    `path` is the `text_of` the path. `map` and `overlay` are file names inside the folder of maps;
    `low` and `high` are the map values of grey 0 and 65535. `reasons` are from detectors that give
    some, `picture` is the name of the annotated image.
    """

    # Field names are keys of the JSON output.
    path: str
    score: float
    verdict: Verdict
    over: Mapping[str, bool]
    map: str | None = None
    overlay: str | None = None
    low: float | None = None
    high: float | None = None
    reasons: tuple[Mapping[str, Any], ...] = ()
    picture: str | None = None

    @classmethod
    def judged(
        cls,
        path: str,
        score: float,
        thresholds: Mapping[str, float],
        by: str,
        files: "MapFiles | None" = None,
        why: "Why | None" = None,
    ) -> Self:
        """A score with the verdict of the threshold called `by`; unknown without that one."""
        over = {name: score >= limit for name, limit in thresholds.items()}
        verdict: Verdict = "unknown"
        if by in over:
            verdict = "anomalous" if over[by] else "normal"
        why = why or Why()
        found = cls(path, score, verdict, over, reasons=why.reasons, picture=why.picture)
        if files is None:
            return found
        return replace(found, map=files.map, overlay=files.overlay, low=files.low, high=files.high)

    def row(self) -> list[str]:
        """The row of the CSV."""
        # A threshold that the checkpoint lacks leaves its column empty.
        flags = [str(int(self.over[name])) if name in self.over else "" for name in THRESHOLDS]
        files = [self.map or "", self.overlay or ""]
        words = "; ".join(reason["words"] for reason in self.reasons)
        return [self.path, repr(self.score), self.verdict, *flags, *files, words, ""]


@dataclass(frozen=True, slots=True)
class MapFiles:
    """The files of one map, by their names, and the map values of grey 0 and 65535."""

    map: str
    overlay: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Why:
    """The reasons of a score as JSON objects, and the file name of the picture that shows them."""

    reasons: tuple[Mapping[str, Any], ...] = ()
    picture: str | None = None


@dataclass(frozen=True, slots=True)
class KeptScore:
    """What an earlier run found for an image."""

    score: float
    files: MapFiles | None
    why: Why = field(default_factory=Why)


def json_of(reason: Reason, size: int) -> dict[str, Any]:
    """A reason as JSON; boxes become shares of the image's width and height, whatever its size."""

    def shares(boxes: Iterable[Box]) -> list[list[float]]:
        return [[round(side / size, 4) for side in box] for box in boxes]

    return {
        "rule": reason.rule,
        "expected": reason.expected,
        "found": reason.found,
        "rate": round(reason.rate, 4),
        "sure": round(reason.sure, 4),
        "words": str(reason),
        "boxes": shares(reason.boxes),
        "missing": shares(reason.missing),
    }


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Rows as CSV. Names are on one line (`text_of`), so every row is."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def failure_row(path: str, why: str) -> list[str]:
    """The row of an image that could not be read."""
    return [path, *[""] * (len(COLUMNS) - 2), why]


class Unfinished:
    """The rows of a run in progress; `kept` are those of an earlier one, by path."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file = path, file
        self._rows = {row["path"]: row for row in _rows_of(file)}
        if not file.tell():
            self._append([_KEPT])

    @classmethod
    @contextmanager
    def beside(cls, output: Path, run: Mapping[str, object]) -> Iterator[Self]:
        """The rows of the unfinished run of this description, for the file `output`.

        UserError while another process works on it.
        """
        path = output.with_name(f"{output.name}.{digest_of(run)[:12]}.part")
        with named_disk_errors(path.parent), locked_for_appending(path) as file:
            yield cls(path, file)

    def kept(self, path: Path) -> KeptScore | None:
        """The score of an unchanged image file from an earlier run, or None."""
        row = self._rows.get(text_of(path))
        if row is None or stamp(path) != (row["bytes"], row["modified"]):
            return None
        files = None
        if row["map"]:
            files = MapFiles(row["map"], row["overlay"], float(row["low"]), float(row["high"]))
        why = Why(tuple(json.loads(row["why"])), row["picture"] or None)
        return KeptScore(float(row["score"]), files, why)

    def add(self, scored: Iterable[tuple[Prediction, tuple[str, str]]]) -> None:
        """Append predictions with the `stamp` of their files, and wait until they are on disk."""
        rows = []
        for one, unchanged in scored:
            ends = ["" if value is None else repr(value) for value in (one.low, one.high)]
            why = json.dumps(one.reasons)
            rows.append([*one.row(), *ends, why, one.picture or "", *unchanged])
        self._append(rows)

    def finished(self) -> None:
        """Delete the rows: the output holds them."""
        self.path.unlink(missing_ok=True)

    def _append(self, rows: Iterable[Sequence[str]]) -> None:
        self._file.write(csv_text(rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def stamp(path: Path) -> tuple[str, str]:
    """(size in bytes, time of the last change in ns) of a file; empty when it is gone."""
    try:
        status = path.stat()
    except OSError:
        return "", ""
    return str(status.st_size), str(status.st_mtime_ns)


def _rows_of(file: BinaryIO) -> list[dict[str, str]]:
    """The complete rows of a file; a last line that was cut short is cut off."""
    file.seek(0)
    content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    head, *rows = list(csv.reader(io.StringIO(whole.decode(errors="replace")))) or [[]]
    # Of another release, or no table of ours at all.
    if tuple(head) != _KEPT:
        whole, rows = b"", []
    file.truncate(len(whole))
    file.seek(len(whole))
    return [dict(zip(_KEPT, row, strict=True)) for row in rows if len(row) == len(_KEPT)]
