"""Integrity check: a version is what was published, to every byte, pixel and count.

There are two layers. The bytes of each file are compared with SHA256SUMS and the index, which finds
every flipped bit. Then the content is decoded, its digests are recomputed, and the guarantees of a
version are checked on the pixels: paste-back, boxes, labels, splits, counts. A file whose bytes are
wrong is not decoded, because a damaged container can claim anything.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.dataset.attempts import canonical_attempts, read_attempts
from pipeline.dataset.files import GALLERY, INDEX, RECORDS, SUMS
from pipeline.dataset.sample_id import sample_id
from pipeline.dataset.shard_reader import ShardReader, TestShardReader
from pipeline.dataset.shard_writer import content_digest
from pipeline.dataset.version import Version, no_version, open_version
from pipeline.dataset.version_writer import checksums, dataset_digest, new_streams
from pipeline.errors import AnomalysmithError, IntegrityError
from pipeline.kinds import KINDS, is_control
from pipeline.records import bounding_box
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.hashing import digest_of


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and every problem found. `checks` maps a check to how often it ran.

    `notes` are oddities that break no guarantee.
    """

    ok: bool
    checks: dict[str, int]
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def raise_if_bad(self) -> None:
        """Raise IntegrityError (exit code 4) with the first problems unless all checks passed."""
        if not self.ok:
            # The error stays one line of bearable length; the report has all of them.
            more = f" (and {len(self.problems) - 5} more)" if len(self.problems) > 5 else ""
            raise IntegrityError("; ".join(self.problems[:5]) + more)


@dataclass(eq=False)
class _Findings:
    """The report while it is being gathered."""

    checks: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def check(self, what: str, good: bool, problem: str) -> bool:
        self.checks[what] += 1
        if not good:
            self.problems.append(problem)
        return good

    def report(self) -> VerifyReport:
        problems = tuple(self.problems)
        return VerifyReport(not problems, dict(self.checks), problems, tuple(self.notes))


def verify(folder: Path) -> VerifyReport:
    """Check a version completely. Raises UserError when the folder is no version at all."""
    folder, found = Path(folder), _Findings()
    if not (folder / INDEX).is_file():
        raise no_version(folder)
    damaged = _check_bytes(folder, found)
    # Everything else is interpreted through the index.
    if INDEX in damaged:
        return found.report()
    try:
        version = open_version(folder)
    except AnomalysmithError as error:
        found.check("index", False, str(error))
        return found.report()
    _check_gallery(folder, found)
    _check_content(version, damaged, found)
    return found.report()


def _check_bytes(folder: Path, found: _Findings) -> set[str]:
    """Compare every file with SHA256SUMS; return the names that cannot be trusted."""
    damaged: set[str] = set()
    path = folder / SUMS
    stated = path.read_bytes() if path.is_file() else b""
    actual = checksums(folder, (folder / INDEX).read_bytes())
    expected_lines, actual_lines = _sum_lines(stated), _sum_lines(actual)
    # Missing, added and changed files; each counts as one check.
    for name in sorted(expected_lines.keys() | actual_lines.keys()):
        if name not in actual_lines:
            problem = f"{folder / name} is missing"
        elif name not in expected_lines:
            problem = f"{folder / name} is not listed in {SUMS}"
        else:
            problem = f"{folder / name}: bytes differ from {SUMS}"
        if not found.check("files", expected_lines.get(name) == actual_lines.get(name), problem):
            damaged.add(name)
    # Equal lines in another order, or with other line ends, are no longer the published bytes.
    if not damaged:
        found.check("files", stated == actual, f"{path} is not in its canonical form")
    return damaged


def _sum_lines(text: bytes) -> dict[str, str]:
    """File name to digest, from lines as `sha256sum` writes them."""
    pairs = (line.partition("  ") for line in text.decode("utf-8", "replace").splitlines())
    return {name: digest for digest, _, name in pairs}


def _check_gallery(folder: Path, found: _Findings) -> None:
    """Compare the gallery with the digest in its own last line.

    It is not in SHA256SUMS, because it may be generated again.
    """
    path = folder / GALLERY
    if not path.is_file():
        return
    # `reports/gallery.py` appends this comment.
    body, _, last = path.read_bytes().rpartition(b"<!-- sha256 ")
    expected = hashlib.sha256(body).hexdigest().encode() + b" -->\n"
    found.check("files", last == expected, f"{path} was changed; write it again with `gallery`")


def _check_content(version: Version, damaged: set[str], found: _Findings) -> None:
    """Decode all shards, recompute every digest, and compare the counts."""
    index, folder = version.index, version.dir
    # Digests of rows by role, recomputed in the order of the index; counts by role.
    streams, tallies = new_streams(), Counter[str]()
    # Split by image name over all shards; lineage by shard and row of every sample.
    splits: dict[str, str] = {}
    placed: dict[tuple[str, int], dict[str, Any]] = {}
    whole = True
    for shard in index["shards"]:
        path = folder / shard["file"]
        if shard["file"] in damaged:
            whole = False
            continue
        found.check(
            "files", sha256_file(path) == shard["sha256"], f"{path}: bytes differ from {INDEX}"
        )
        # Matching bytes may still hold content that breaks a guarantee, so everything is decoded.
        with _decoding(path, found):
            reader = (TestShardReader if shard["role"] == "test" else ShardReader)(path)
            with reader:
                images, samples = list(reader.image_digests()), list(reader.sample_digests())
                found.check(
                    "content digests",
                    content_digest(images, samples) == shard["content"],
                    f"{path}: the decoded content is not what the index states",
                )
                found.check(
                    "counts",
                    (len(images), len(samples)) == (shard["images"], shard["samples"]),
                    f"{path}: holds {len(images)} images and {len(samples)} samples, the index "
                    f"states {shard['images']} and {shard['samples']}",
                )
                if isinstance(reader, ShardReader):
                    _check_samples(reader, shard, splits, placed, found)
            # Rejects are no part of the dataset's identity.
            if shard["role"] == "samples":
                streams["images"].extend(images)
                streams["samples"].extend(samples)
            elif shard["role"] == "test":
                streams["test"].extend(images)
            tallies[shard["role"] + " images"] += len(images)
            tallies[shard["role"] + " samples"] += len(samples)
    # Without every shard neither the totals nor the dataset digest can come out.
    if RECORDS in damaged or not whole:
        return
    with _decoding(folder / RECORDS, found):
        rows = read_attempts(folder / RECORDS)
        streams["attempts"].extend(digest_of(row) for row in canonical_attempts(rows))
        _check_table(version, rows, placed, tallies, found)
        digests = {name: stream.hexdigest() for name, stream in streams.items()}
        same = dataset_digest(index, digests) == index["digest"] and digests == index["digests"]
        found.check("dataset digest", same, f"{folder}: the content has another dataset digest")
        # A renamed folder is odd, but its content is intact.
        number = version.name.rpartition("-")[2]
        if number != index["digest"][:12]:
            found.notes.append(f"the folder {version.name} does not have the digest in its name")


def _check_samples(
    reader: ShardReader,
    shard: dict[str, Any],
    splits: dict[str, str],
    placed: dict[tuple[str, int], dict[str, Any]],
    found: _Findings,
) -> None:
    """Check the guarantees of one shard on its pixels and records.

    `splits` and `placed` gather what later shards and the table are compared with.
    """
    file = shard["file"]
    # No image may be in two splits, nor state another split than its record.
    for i in range(reader.images):
        record = reader.image_record(i)
        split = splits.setdefault(record["name"], record["split"])
        code = reader.array("originals/split")[i]
        stored = reader.attrs["splits"][code].decode() if code < len(reader.attrs["splits"]) else ""
        found.check(
            "splits",
            split == record["split"] == stored,
            f"{file}: {record['name']} is in two splits: {split}, {record['split']}, {stored}",
        )
    for j in range(reader.samples):
        record, mask_HW = reader.record(j), reader.mask(j)
        where = f"{file} sample {j} ({record['id']})"
        placed[file, j] = record
        # The difference from the source must be zero outside the change mask.
        found.check(
            "paste-back",
            not reader.delta(j)[~mask_HW].any(),
            f"{where}: pixels differ from the source outside the change mask",
        )
        found.check(
            "boxes", reader.bbox(j) == bounding_box(mask_HW), f"{where}: the box is not the mask's"
        )
        kind = record["kind"]
        # Column, record and edit must name the same kind, and the label must follow from it.
        found.check(
            "labels",
            kind in KINDS
            and reader.kind(j) == kind == record["edit"]["kind"]
            and reader.label(j) == record["label"] == int(not is_control(kind)),
            f"{where}: kind and label disagree with the record",
        )
        # The image that the sample's row refers to must be the one that its record names.
        source = reader.image_record(reader.source(j))
        named = {name: source[name] for name in ("name", "digest", "split")}
        found.check("lineage", named == record["source"], f"{where}: the source is another image")
        # Accepted samples have no reason, rejects have one, and each is in its kind of shard.
        found.check(
            "verdicts",
            record["accepted"] == (shard["role"] == "samples") != bool(record["reason"]),
            f"{where}: its verdict does not belong in this file",
        )


def _check_table(
    version: Version,
    rows: list[dict[str, Any]],
    placed: dict[tuple[str, int], dict[str, Any]],
    tallies: Counter[str],
    found: _Findings,
) -> None:
    """Check the table of attempts against the counts of the index and the stored samples."""
    counts = version.index["counts"]
    # Recount what the index states.
    accepted = [row for row in rows if row["accepted"]]
    rejected = Counter(row["reason"] for row in rows if not row["accepted"])
    by_kind: dict[str, dict[str, int]] = {}
    for row in rows:
        tally = by_kind.setdefault(row["kind"], {"attempted": 0, "accepted": 0})
        tally["attempted"] += 1
        tally["accepted"] += row["accepted"]
    for what, actual, stated in (
        ("attempts", len(rows), counts["attempts"]),
        ("accepted", len(accepted), counts["accepted"]),
        ("accepted in shards", tallies["samples samples"], counts["accepted"]),
        ("images", tallies["samples images"], counts["images"]),
        ("test images", tallies["test images"], counts["test"]["images"]),
        ("rejected by reason", dict(rejected), counts["rejected"]),
        ("by kind", by_kind, counts["by_kind"]),
    ):
        problem = f"{what}: the index states {stated}, there are {actual}"
        found.check("counts", actual == stated, problem)
    # Every row that names a place must fit the sample there.
    for row in rows:
        if row["shard"] is None:
            continue
        # Popped, so what remains has no row in the table.
        record = placed.pop((row["shard"], row["row"]), None)
        same = record is not None and all(
            row[name] == value
            for name, value in (
                ("image", record["source"]["name"]),
                ("split", record["source"]["split"]),
                *((key, record[key]) for key in ("number", "attempt", "seed", "scores", "reason")),
            )
        )
        where = sample_id(row["image"], row["number"], row["attempt"])
        found.check("table", same, f"{RECORDS}: {where} does not fit {row['shard']}[{row['row']}]")
    # Stored samples that no row of the table names.
    for (file, j), record in placed.items():
        found.check("table", False, f"{file}[{j}] ({record['id']}) is not in {RECORDS}")


@contextmanager
def _decoding(path: Path, found: _Findings) -> Iterator[None]:
    """Record a file that cannot be decoded as a problem, and let the check continue."""
    try:
        yield
    except (AnomalysmithError, KeyError, IndexError, ValueError, TypeError) as error:
        found.check("decoding", False, f"{path} cannot be decoded: {error}")
