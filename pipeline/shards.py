"""Shards: some images and their edits as flat HDF5 arrays, one row per image and per sample.

Originals are contiguous and uncompressed, so a reader can map them; an edit is stored as
(edited - original) mod 256, which is zero almost everywhere and costs a few kilobytes; masks are
bit-packed along the row. No groups per sample, no variable-length types, no timestamps. A shard
is written under a temporary name, closed, read back row by row against the digests of what went
in, synced and renamed. `docs/format.md` lists every array; `shardfiles.py` reads them.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.digests import canonical_json, digest_of, sha256_file
from pipeline.errors import IntegrityError, RecordError, UserError
from pipeline.lineage import image_record, sample_id, sample_record
from pipeline.records import KINDS, SPLITS, Attempt, ImageResult, TestImage, bounding_box
from pipeline.shardfiles import FORMAT, ShardReader, TestShardReader, pack, row_digest

Role = Literal["samples", "rejects", "test"]
Profile = Literal["default", "portable"]
__all__ = [
    "PROFILES",
    "Profile",
    "Role",
    "SampleRows",
    "ShardInfo",
    "ShardReader",
    "TestRows",
    "TestShardReader",
    "content_digest",
    "sync",
    "write_shard",
    "write_test_shard",
]

PROFILES: tuple[Profile, ...] = ("default", "portable")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One written shard. `content` is the digest of its decoded rows, `sha256` of its bytes."""

    file: str
    role: Role
    bytes: int
    sha256: str
    content: str
    images: int
    samples: int
    image_digests: tuple[str, ...] = ()
    sample_digests: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        names = ("file", "role", "bytes", "sha256", "content", "images", "samples")
        return {name: getattr(self, name) for name in names}


def content_digest(image_digests: Iterable[str], sample_digests: Iterable[str]) -> str:
    """The digest of a shard's content from the digests of its rows, in order."""
    return digest_of({"images": list(image_digests), "samples": list(sample_digests)})


def write_shard(
    path: Path,
    results: Sequence[ImageResult],
    role: Role = "samples",
    profile: Profile = "default",
    category: str = "",
) -> ShardInfo:
    """Write the accepted samples of some images, or with role `rejects` the rejected ones."""
    rows = SampleRows(role)
    for result in results:
        rows.add(result)
    return rows.write(path, profile, category)


def write_test_shard(
    path: Path, images: Sequence[TestImage], profile: Profile = "default", category: str = ""
) -> ShardInfo:
    """Write images of the real test split with their ground-truth masks."""
    rows = TestRows()
    for image in images:
        rows.add(image)
    return rows.write(path, profile, category)


@dataclass(eq=False)
class SampleRows:
    """The rows of one shard on their way to disk, held packed: masks as bits, edits as crops."""

    role: Role = "samples"
    columns: dict[str, list[Any]] = field(default_factory=dict)
    image_digests: list[str] = field(default_factory=list)
    sample_digests: list[str] = field(default_factory=list)
    size_HW: tuple[int, int] | None = None
    bytes_held: int = 0

    def add(self, result: ImageResult) -> None:
        """Append one image and those of its attempts that belong into a shard of this role."""
        self._check(result)
        foreground, proposals = pack(result.foreground.mask_HW), pack(result.proposals.masks_NHW)
        record = image_record(result)
        self._put("originals/pixels", result.pixels_HW3)
        self._put("originals/foreground", foreground)
        self._put("originals/proposals", proposals)
        self._put("originals/proposal_scores", result.proposals.scores_N)
        self._put("originals/split", SPLITS.index(result.split))
        self._put("originals/record", canonical_json(record))
        self.bytes_held += result.pixels_HW3.nbytes + foreground.nbytes + proposals.nbytes
        self.image_digests.append(
            row_digest(
                record,
                pixels=result.pixels_HW3,
                foreground=foreground,
                proposals=proposals,
                scores=result.proposals.scores_N,
            )
        )
        for attempt in result.attempts:
            if attempt.sample is not None and attempt.verdict.accepted == (self.role == "samples"):
                self._add_sample(result, attempt)

    def _add_sample(self, result: ImageResult, attempt: Attempt) -> None:
        sample = attempt.sample
        assert sample is not None
        delta = sample.pixels_HW3 - result.pixels_HW3
        box = x0, y0, x1, y1 = bounding_box(sample.change_HW)
        if delta[~sample.change_HW].any():
            raise RecordError(
                f"{sample_id(result, attempt)}: pixels differ from the source outside the change "
                "mask; an edit must be pasted back into its source"
            )
        mask, object_mask = pack(sample.change_HW), pack(sample.object_HW)
        record = sample_record(result, attempt)
        self._put("samples/delta", (box, delta[y0:y1, x0:x1].copy()))
        self._put("samples/mask", mask)
        self._put("samples/object_mask", object_mask)
        self._put("samples/source", len(self.image_digests) - 1)
        self._put("samples/label", sample.label)
        self._put("samples/kind", KINDS.index(sample.edit.kind))
        self._put("samples/bbox", box)
        self._put("samples/record", canonical_json(record))
        self.bytes_held += 3 * (x1 - x0) * (y1 - y0) + 2 * mask.nbytes
        self.sample_digests.append(
            row_digest(record, pixels=sample.pixels_HW3, mask=mask, object_mask=object_mask)
        )

    def _check(self, result: ImageResult) -> None:
        size = result.pixels_HW3.shape[:2]
        self.size_HW = self.size_HW or size
        masks = [result.foreground.mask_HW, result.proposals.foreground_HW]
        masks += [a.sample.change_HW for a in result.attempts if a.sample is not None]
        for shape in [size, *(mask.shape for mask in masks)]:
            if shape != self.size_HW:
                raise RecordError(
                    f"{result.name}: all images of a version have one size, expected "
                    f"{self.size_HW}, got {shape}"
                )

    def _put(self, name: str, value: Any) -> None:
        self.columns.setdefault(name, []).append(value)

    def write(self, path: Path, profile: Profile, category: str) -> ShardInfo:
        """Write the shard whole, or leave nothing under its name."""
        return _write(path, self, self.role, profile, category)

    def fill(self, file: Any, packing: dict[str, Any]) -> None:
        """Put the columns into an open HDF5 file."""
        height, width = self.size_HW or (0, 0)
        bits = (height, (width + 7) // 8)
        get = self.columns.get
        originals = file.create_group("originals")
        _rows(originals, "pixels", (height, width, 3), get("originals/pixels", []))
        _rows(originals, "foreground", bits, get("originals/foreground", []))
        proposals = get("originals/proposals", [])
        _array(originals, "proposal_offsets", _offsets(proposals), np.int64)
        _rows(originals, "proposals", bits, [mask for masks in proposals for mask in masks])
        scores = [np.zeros(0, np.float32), *get("originals/proposal_scores", [])]
        _array(originals, "proposal_scores", np.concatenate(scores), np.float32)
        _array(originals, "split", get("originals/split", []), np.uint8)
        _blob(originals, get("originals/record", []))

        samples = file.create_group("samples")
        deltas = _Uncropped(get("samples/delta", []), (height, width, 3))
        _rows(samples, "delta", (height, width, 3), deltas, packing)
        _rows(samples, "mask", bits, get("samples/mask", []), packing)
        _rows(samples, "object_mask", bits, get("samples/object_mask", []), packing)
        _array(samples, "source", get("samples/source", []), np.int32)
        _array(samples, "label", get("samples/label", []), np.uint8)
        _array(samples, "kind", get("samples/kind", []), np.uint8)
        _array(samples, "bbox", np.reshape(get("samples/bbox", []), (-1, 4)), np.int16)
        _blob(samples, get("samples/record", []))


@dataclass(eq=False)
class TestRows:
    """The rows of one test shard on their way to disk."""

    __test__ = False

    columns: list[tuple[TestImage, np.ndarray, bytes]] = field(default_factory=list)
    image_digests: list[str] = field(default_factory=list)
    sample_digests: tuple[str, ...] = ()
    size_HW: tuple[int, int] | None = None
    bytes_held: int = 0

    def add(self, image: TestImage) -> None:
        """Append one test image with its masks."""
        size = image.pixels_HW3.shape[:2]
        self.size_HW = self.size_HW or size
        if size != self.size_HW or image.masks_KHW.shape[1:] != size:
            raise RecordError(
                f"{image.name}: all images of a version have one size, expected {self.size_HW}, "
                f"got {size} with masks {image.masks_KHW.shape}"
            )
        masks = pack(image.masks_KHW)
        record = {"name": image.name, "digest": image.digest, "defect": image.defect}
        self.columns.append((image, masks, canonical_json(record)))
        self.bytes_held += image.pixels_HW3.nbytes + masks.nbytes
        self.image_digests.append(
            row_digest(record, pixels=image.pixels_HW3, masks=masks, values=image.values_K)
        )

    def write(self, path: Path, profile: Profile, category: str) -> ShardInfo:
        """Write the shard whole, or leave nothing under its name."""
        return _write(path, self, "test", profile, category)

    def fill(self, file: Any, packing: dict[str, Any]) -> None:
        """Put the columns into an open HDF5 file."""
        height, width = self.size_HW or (0, 0)
        masks = [masks for _, masks, _ in self.columns]
        values = [np.zeros(0, np.uint8), *(image.values_K for image, _, _ in self.columns)]
        group = file.create_group("images")
        _rows(
            group, "pixels", (height, width, 3), [image.pixels_HW3 for image, _, _ in self.columns]
        )
        _array(group, "mask_offsets", _offsets(masks), np.int64)
        bits = (height, (width + 7) // 8)
        _rows(group, "masks", bits, [mask for some in masks for mask in some], packing)
        _array(group, "mask_values", np.concatenate(values), np.uint8)
        _array(
            group, "label", [int(image.defect != "good") for image, _, _ in self.columns], np.uint8
        )
        _blob(group, [record for _, _, record in self.columns])


def _write(
    path: Path, rows: SampleRows | TestRows, role: Role, profile: Profile, category: str
) -> ShardInfo:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(_image(rows, role, profile, category))
        reader = TestShardReader(temporary) if role == "test" else ShardReader(temporary)
        with reader:
            images = list(_compared(path, "image", reader.image_digests(), rows.image_digests))
            samples = list(_compared(path, "sample", reader.sample_digests(), rows.sample_digests))
        info = ShardInfo(
            file=path.name,
            role=role,
            bytes=temporary.stat().st_size,
            sha256=sha256_file(temporary),
            content=content_digest(images, samples),
            images=len(images),
            samples=len(samples),
            image_digests=tuple(images),
            sample_digests=tuple(samples),
        )
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return info


def _image(rows: SampleRows | TestRows, role: Role, profile: Profile, category: str) -> bytes:
    """The bytes of the HDF5 file, made in memory: on a full disk HDF5 crashes the process."""
    import h5py

    packing = _packing(profile)
    name = f"shard-in-memory-{os.getpid()}-{id(rows)}"
    options = {"driver": "core", "backing_store": False, "block_size": 16 << 20}
    with h5py.File(name, "w", **options) as file:
        file.attrs["format"] = np.int64(FORMAT)
        file.attrs["role"] = np.bytes_(role)
        file.attrs["category"] = np.bytes_(category.encode())
        file.attrs["image_size"] = np.array(rows.size_HW or (0, 0), np.int64)
        file.attrs["profile"] = np.bytes_(profile)
        file.attrs["kinds"] = np.array(KINDS, np.bytes_)
        file.attrs["splits"] = np.array(SPLITS, np.bytes_)
        rows.fill(file, packing)
        file.flush()
        return file.id.get_file_image()


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _compared(path: Path, what: str, read: Iterable[str], written: Sequence[str]) -> Iterator[str]:
    read = list(read)
    if len(read) != len(written):
        raise IntegrityError(f"{path}: wrote {len(written)} {what} rows, read back {len(read)}")
    for row, (got, expected) in enumerate(zip(read, written, strict=True)):
        if got != expected:
            raise IntegrityError(f"{path}: {what} row {row} does not read back as it was written")
        yield got


def _packing(profile: Profile) -> dict[str, Any]:
    if profile == "portable":
        return {"compression": "gzip", "compression_opts": 1, "fletcher32": True}
    if profile != "default":
        raise UserError(f"the profile of a store is one of {PROFILES}, got {profile!r}")
    import hdf5plugin

    return {**hdf5plugin.LZ4(), "fletcher32": True}


@dataclass(frozen=True, slots=True)
class _Uncropped:
    """Crops seen as full-size rows, one at a time."""

    crops: list[tuple[tuple[int, int, int, int], np.ndarray]]
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[np.ndarray]:
        for (x0, y0, x1, y1), crop in self.crops:
            full = np.zeros(self.shape, np.uint8)
            full[y0:y1, x0:x1] = crop
            yield full


def _rows(
    group: Any,
    name: str,
    shape: tuple[int, ...],
    rows: Any,
    packing: dict[str, Any] | None = None,
) -> None:
    """One dataset of uint8 rows: contiguous, or one row per chunk when there is a packing."""
    options = {"chunks": (1, *shape), **packing} if packing and len(rows) else {}
    data = group.create_dataset(name, (len(rows), *shape), np.uint8, track_times=False, **options)
    for index, row in enumerate(rows):
        data[index] = row


def _array(group: Any, name: str, values: Any, dtype: type) -> None:
    group.create_dataset(name, data=np.asarray(values, dtype), track_times=False)


def _offsets(rows: Sequence[Any]) -> np.ndarray:
    return np.cumsum([0, *(len(row) for row in rows)], dtype=np.int64)


def _blob(group: Any, records: list[bytes]) -> None:
    _array(group, "record_blob", np.frombuffer(b"".join(records), np.uint8), np.uint8)
    _array(group, "record_offsets", _offsets(records), np.int64)
