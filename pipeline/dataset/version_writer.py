"""Writing a version into a hidden folder: rows in; shards, table, index and checksums out.

Everything here happens before the folder gets its public name. Rows stream through: at most one
shard and the kept rejects are in memory. The digest of the dataset is computed over the digests of
rows, so it depends neither on shard sizes nor on HDF5 bytes nor on durations.
"""

import hashlib
import json
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.dataset.attempt_rows import AttemptRows
from pipeline.dataset.attempts import write_attempts
from pipeline.dataset.files import BUILDING, FORMAT, INDEX, RECORDS, SUMS
from pipeline.dataset.hdf5_columns import Profile
from pipeline.dataset.lineage import attempt_record
from pipeline.dataset.rejects import RejectPool
from pipeline.dataset.shard_writer import SampleRows, ShardInfo, TestRows
from pipeline.errors import RecordError, UserError
from pipeline.records import GOOD, ImageResult, TestImage
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.files import named_disk_errors, sync, write_atomic
from pipeline.utils.hashing import canonical_json, digest_of, pretty_json

# A shard is closed early when its rows take this many bytes in memory, however few images it has.
HELD_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class VersionHeader:
    """What a version records about its generation. `failures` is read after the last result.

    `original_size` is the (H, W) of the source's images before resizing; absolute areas in
    `defects_config` are in its pixels. `limits` are those that the gate calibrated on the normal
    images; empty when it calibrated none. `parent` is the version that this one was made from, else
    the newest one is named. `reviews` says which decisions of people went into it.
    """

    settings: Mapping[str, Any]
    plan_digest: str
    weights: Mapping[str, str] = field(default_factory=dict)
    code_version: str = ""
    licence: str = ""
    failures: Sequence[Mapping[str, str]] = ()
    defects_config: Any = None
    original_size: tuple[int, int] | None = None
    software: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    parent: str = ""
    reviews: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{12,64}", self.plan_digest):
            raise RecordError(f"plan_digest must be 12-64 hex digits, got {self.plan_digest!r}")


def dataset_digest(identity: Mapping[str, Any], streams: Mapping[str, str]) -> str:
    """The digest of a dataset from its identifying fields and the digests of its rows in order.

    `streams` holds, for `images`, `samples`, `attempts` and `test`, the SHA-256 over the row
    digests, one per line. Shard boundaries do not enter.
    """
    names = ("format", "category", "image_size", "licence", "defects_config")
    # Error texts may differ between library versions, so only the names of failed inputs enter.
    failed = [failure["name"] for failure in identity["failures"]]
    return digest_of({name: identity[name] for name in names} | {"failures": failed, **streams})


class RowStream:
    """SHA-256 over row digests, one per line."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()

    def extend(self, digests: Iterable[str]) -> None:
        for digest in digests:
            self._hasher.update(digest.encode() + b"\n")

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def new_streams() -> dict[str, RowStream]:
    """The four streams of rows that identify a dataset."""
    return {name: RowStream() for name in ("images", "samples", "attempts", "test")}


class VersionBuild:
    """The growing content of one version inside its hidden folder."""

    def __init__(
        self,
        folder: Path,
        category: str,
        profile: Profile,
        shard_images: int,
        keep_rejects: int,
    ) -> None:
        self.folder, self.category, self.profile = folder, category, profile
        self.shard_images = shard_images
        self.shards: list[ShardInfo] = []
        # Digests of rows, in the order in which the rows are written.
        self.streams = new_streams()
        self.attempts = AttemptRows()
        self.rejects = RejectPool(keep_rejects)
        # Image names so far: a name identifies an image and must be unique.
        self.names: set[str] = set()
        self.counts = _Counts()
        # The open shards: one of images, one of the real test split.
        self._rows, self._test = SampleRows(), TestRows()
        self._size: tuple[int, int] | None = None

    def add(self, result: ImageResult) -> None:
        """Append one normal image with its attempts."""
        self._check(result.name, result.pixels_HW3.shape[:2])
        # Where the accepted samples of this image will be stored, which the table records.
        row, shard = len(self._rows.sample_digests), f"shard-{self._number('samples'):04d}.h5"
        rows: list[dict[str, Any]] = []
        for attempt in result.attempts:
            # The digest covers the record alone; duration and place are added for the table.
            record = attempt_record(result, attempt)
            self.streams["attempts"].extend([digest_of(record)])
            stored = attempt.sample is not None and attempt.verdict.accepted
            rows.append(
                record
                | {"seconds": float(attempt.seconds)}
                | {"shard": shard if stored else None, "row": row if stored else None}
            )
            # Rows of a shard are numbered in the order of `SampleRows.add`.
            row += stored
            if attempt.sample is not None and not attempt.verdict.accepted:
                self.rejects.offer(result, attempt, len(self.attempts) + len(rows) - 1)
        self.attempts.extend(rows)
        self.counts.add(result)
        self._rows.add(result)
        # Few large images reach the limit in bytes, many small ones the limit in images.
        held = self._rows.bytes_as(self.profile)
        if len(self._rows.image_digests) >= self.shard_images or held > HELD_BYTES:
            self._close_rows()

    def add_test(self, image: TestImage) -> None:
        """Append one image of the real test split."""
        self._check(image.name, image.pixels_HW3.shape[:2])
        self.counts.add_test(image)
        self._test.add(image)
        if self._test.bytes_held > HELD_BYTES:
            self._close_test()

    def finish(self, header: VersionHeader) -> dict[str, Any]:
        """Write the remaining shards and the table; return the index, with the dataset digest."""
        if not self.counts.images:
            raise UserError(
                f"{self.category}: no usable normal image, so there is nothing to publish "
                f"({len(header.failures)} failed)"
            )
        # Close the shards that are still open.
        if self._rows.image_digests:
            self._close_rows()
        if self._test.image_digests:
            self._close_test()
        # Rejects come last: which of them are kept is known only now.
        self._write_rejects()
        # The order of keys is of no consequence: the index is written sorted.
        index: dict[str, Any] = {
            "format": FORMAT,
            "category": self.category,
            "image_size": list(self._size or (0, 0)),
            "profile": self.profile,
            "licence": header.licence,
            "defects_config": header.defects_config,
            "original_size": list(header.original_size) if header.original_size else None,
            "settings": header.settings,
            "plan_digest": header.plan_digest,
            "weights": header.weights,
            "software": header.software,
            "code_version": header.code_version,
            "counts": self.counts.to_json(),
            "failures": [dict(failure) for failure in header.failures],
            "shards": [info.to_json() for info in self.shards],
            **({"limits": dict(header.limits)} if header.limits else {}),
            **({"reviews": dict(header.reviews)} if header.reviews else {}),
        }
        # The digest is computed before the table is written: its bytes depend on PyArrow's version.
        digests = {name: stream.hexdigest() for name, stream in self.streams.items()}
        index["digests"], index["digest"] = digests, dataset_digest(index, digests)
        with named_disk_errors(self.folder):
            write_attempts(self.folder / RECORDS, self.attempts)
            sync(self.folder / RECORDS)
        # The table is described in the index, so a reader of the index knows its checksum.
        records = self.folder / RECORDS
        index["records"] = {
            "file": RECORDS,
            "sha256": sha256_file(records),
            "bytes": records.stat().st_size,
            "rows": len(self.attempts),
        }
        # The round trip turns tuples and NumPy numbers into what a reader of the file will see.
        return json.loads(canonical_json(index))

    def seal(self, index: dict[str, Any], documents: Mapping[str, bytes]) -> None:
        """Write documents (file name -> content) and checksums, and the index last."""
        with named_disk_errors(self.folder):
            for name, content in documents.items():
                write_atomic(self.folder / name, content)
            text = pretty_json(index)
            write_atomic(self.folder / SUMS, checksums(self.folder, text))
            # Readers take a folder with an index for a complete version.
            write_atomic(self.folder / INDEX, text)

    def _check(self, name: str, size: tuple[int, ...]) -> None:
        height, width = size
        self._size = self._size or (height, width)
        if size != self._size:
            raise RecordError(f"{name}: expected the size {self._size} of the others, got {size}")
        if name in self.names:
            raise RecordError(f"{self.category}: the image name {name!r} came twice")
        self.names.add(name)

    def _number(self, role: str) -> int:
        return sum(info.role == role for info in self.shards)

    def _close_rows(self) -> None:
        info = self._write(self._rows, f"shard-{self._number('samples'):04d}.h5")
        self.streams["images"].extend(info.image_digests)
        self.streams["samples"].extend(info.sample_digests)
        self._rows = SampleRows()

    def _close_test(self) -> None:
        # Most test splits fit into one shard, whose name needs no number.
        number = self._number("test")
        info = self._write(self._test, f"test-{number:04d}.h5" if number else "test.h5")
        self.streams["test"].extend(info.image_digests)
        self._test = TestRows()

    def _write_rejects(self) -> None:
        rows, row = SampleRows("rejects"), 0
        for result, kept in self.rejects.by_image():
            rows.add(result)
            # The table learns where each kept reject is stored.
            for index in kept:
                self.attempts.update(index, {"shard": "rejects.h5", "row": row})
                row += 1
        if row:
            self._write(rows, "rejects.h5")

    def _write(self, rows: SampleRows | TestRows, name: str) -> ShardInfo:
        with named_disk_errors(self.folder):
            info = rows.write(self.folder / name, self.profile, self.category)
        # The digests of its rows are in the streams; kept, they would grow with the version.
        self.shards.append(replace(info, image_digests=(), sample_digests=()))
        return info


@dataclass
class _Counts:
    """What `counts` in the index states."""

    images: int = 0
    attempts: int = 0
    accepted: int = 0
    controls: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    kinds: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    splits: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rules: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    defects: Counter[str] = field(default_factory=Counter)

    def add(self, result: ImageResult) -> None:
        self.images += 1
        self.splits[result.split].update(images=1)
        for attempt in result.attempts:
            accepted = attempt.verdict.accepted
            self.attempts += 1
            self.accepted += accepted
            self.kinds[attempt.kind].update(attempted=1, accepted=int(accepted))
            self.splits[result.split].update(samples=int(accepted))
            if attempt.verdict.rule:
                self.rules[attempt.verdict.rule].update(attempted=1, accepted=int(accepted))
            if not accepted:
                self.rejected[attempt.verdict.reason] += 1
            elif attempt.sample is not None and attempt.sample.label == 0:
                self.controls += 1

    def add_test(self, image: TestImage) -> None:
        self.defects[image.defect] += 1

    def to_json(self) -> dict[str, Any]:
        good = self.defects.get(GOOD, 0)
        return {
            "images": self.images,
            "attempts": self.attempts,
            "accepted": self.accepted,
            "anomalous": self.accepted - self.controls,
            "controls": self.controls,
            "rejected": dict(self.rejected),
            "by_kind": {kind: dict(counts) for kind, counts in self.kinds.items()},
            **({"by_rule": {r: dict(c) for r, c in self.rules.items()}} if self.rules else {}),
            "splits": {
                split: {"images": counts["images"], "samples": counts["samples"]}
                for split, counts in self.splits.items()
            },
            "test": {
                "images": sum(self.defects.values()),
                "good": good,
                "by_defect": dict(self.defects),
            },
        }


def checksums(folder: Path, index_text: bytes) -> bytes:
    """The text of SHA256SUMS: every file but itself and the gallery, which may be written again.

    The index is given as text, because it is written after its checksum.
    """
    # Hidden files are temporary ones; a checksum list cannot contain itself.
    digests = {INDEX: hashlib.sha256(index_text).hexdigest()}
    for path in folder.iterdir():
        named = path.name not in (SUMS, INDEX) and not path.name.startswith(".")
        if path.is_file() and named:
            digests[path.name] = sha256_file(path)
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests)).encode()


@contextmanager
def building_folder(home: Path, plan_digest: str) -> Iterator[Path]:
    """An empty hidden folder, removed afterwards unless it was renamed; needs the category's
    lock."""
    with named_disk_errors(home):
        # The holder of the lock is the only writer, so such a folder is left from a run that died.
        for stale in home.glob(f"{BUILDING}*"):
            shutil.rmtree(stale)
        folder = home / f"{BUILDING}{plan_digest[:12]}"
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
