"""Shards: images and their edits as flat HDF5 arrays, one row per image and per sample.

Originals are contiguous and uncompressed, so a reader can memory-map them. An edit is stored as
(edited - original) mod 256, which is zero almost everywhere and takes a few kilobytes, or whole in
the `fast` profile. Masks are bit-packed along the row. There are no groups per sample, no
variable-length types and no timestamps. A shard is written under a temporary name, closed, read
back row by row against what went in, synced and renamed. `docs/format.md` lists every array,
`hdf5_columns.py` decides how they are stored, `shard_reader.py` reads them.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from isal.isal_zlib import crc32

from pipeline.dataset.files import FORMAT
from pipeline.dataset.hdf5_columns import (
    Bytes,
    Column,
    Edits,
    Pixels,
    Profile,
    Small,
    compare,
    file_image,
    ragged,
    records,
    same_bytes,
)
from pipeline.dataset.lineage import image_record, sample_record
from pipeline.dataset.sample_id import sample_id
from pipeline.dataset.shard_reader import ShardReader, TestShardReader, pack, row_digest
from pipeline.errors import RecordError
from pipeline.kinds import KINDS
from pipeline.records import SPLITS, Attempt, ImageResult, Sample, TestImage, bounding_box
from pipeline.utils.files import sync
from pipeline.utils.hashing import RowsDigest, canonical_json, digest_of

Role = Literal["samples", "rejects", "test"]

# Bytes of the file that are hashed and written at a time: the processor's cache holds them.
PIECE = 1 << 18
# Put in front of a concatenation, they set its dtype where nothing else is there.
_NO_SCORES, _NO_VALUES = np.zeros(0, np.float32), np.zeros(0, np.uint8)


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One written shard. `content` is the digest of its decoded rows, `sha256` that of its bytes.

    `image_digests` and `sample_digests` are those of its rows, in order; they stay out of the
    index.
    """

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
    """Write images with their accepted samples, or with role `rejects` the rejected ones."""
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
    """The rows of one shard until it is written, held compactly: masks as bits, edits as crops.

    `columns` maps an array's name to its rows. `bytes_held` is what the large ones take in memory.
    """

    role: Role = "samples"
    columns: dict[str, list[Any]] = field(default_factory=dict)
    image_digests: list[str] = field(default_factory=list)
    sample_digests: list[str] = field(default_factory=list)
    size_HW: tuple[int, int] | None = None
    bytes_held: int = 0

    def add(self, result: ImageResult) -> None:
        """Append one image and those of its attempts that belong in a shard of this role."""
        self._check(result)
        # The digest covers what is stored: packed bits, not bool masks.
        foreground, proposals = pack(result.foreground.mask_HW), pack(result.proposals.masks_NHW)
        samples = [
            (attempt, attempt.sample, bounding_box(attempt.sample.change_HW))
            for attempt in result.attempts
            if attempt.sample is not None and attempt.verdict.accepted == (self.role == "samples")
        ]
        record = canonical_json(image_record(result))
        # Above its box, an edited image is the original.
        pixels = RowsDigest(result.pixels_HW3, [top for _, _, (_, top, _, _) in samples])
        self._put("originals/pixels", result.pixels_HW3)
        # Now, as the processor's cache holds the pixels.
        self._put("originals/checksums", crc32(np.ascontiguousarray(result.pixels_HW3).data))
        self._put("originals/foreground", foreground)
        self._put("originals/proposals", proposals)
        self._put("originals/proposal_scores", result.proposals.scores_N)
        self._put("originals/split", SPLITS.index(result.split))
        self._put("originals/record", record)
        self.bytes_held += result.pixels_HW3.nbytes + foreground.nbytes + proposals.nbytes
        self.image_digests.append(
            row_digest(
                record,
                pixels=pixels.hex,
                foreground=foreground,
                proposals=proposals,
                scores=result.proposals.scores_N,
            )
        )
        for attempt, sample, box in samples:
            self._add_sample(result, attempt, sample, box, pixels)

    def bytes_as(self, profile: Profile) -> int:
        """The memory that writing takes: `fast` writes edits and byte masks whole."""
        # Three colour channels and one byte of mask per pixel.
        if profile != "fast" or self.size_HW is None:
            return self.bytes_held
        height, width = self.size_HW
        return self.bytes_held + 4 * height * width * len(self.sample_digests)

    def _add_sample(
        self,
        result: ImageResult,
        attempt: Attempt,
        sample: Sample,
        box: tuple[int, int, int, int],
        original: RowsDigest,
    ) -> None:
        """Append a sample, whose change mask has this box, of the image that was appended last."""
        x0, y0, x1, y1 = box
        edited_HW3, source_HW3 = sample.pixels_HW3, result.pixels_HW3
        # Only the crop around the change mask is kept; uint8 differences wrap modulo 256.
        rows_hW3 = edited_HW3[y0:y1] - source_HW3[y0:y1]
        delta = rows_hW3[:, x0:x1].copy()
        # Readers rebuild the image from the box: anything edited outside of it would be lost, and
        # anything outside the mask breaks the promise that unmasked pixels equal the source.
        rows_hW3[:, x0:x1] = 0
        unmasked_N3 = delta.reshape(-1, 3).compress(~sample.change_HW[y0:y1, x0:x1].ravel(), axis=0)
        if (
            rows_hW3.max(initial=0)
            or unmasked_N3.max(initial=0)
            or not same_bytes(edited_HW3[:y0], source_HW3[:y0])
            or not same_bytes(edited_HW3[y1:], source_HW3[y1:])
        ):
            name = sample_id(result.name, attempt.number, attempt.attempt)
            raise RecordError(
                f"{name}: pixels differ from the source outside the change "
                "mask; an edit must be pasted back into its source"
            )
        mask, object_mask = pack(sample.change_HW), pack(sample.object_HW)
        record = canonical_json(sample_record(result, attempt))
        # One row in every column of `samples/`.
        self._put("samples/delta", (box, delta))
        self._put("samples/mask", mask)
        self._put("samples/object_mask", object_mask)
        # The image was appended just before, so it is the last row.
        self._put("samples/source", len(self.image_digests) - 1)
        self._put("samples/label", sample.label)
        self._put("samples/kind", KINDS.index(sample.edit.kind))
        self._put("samples/bbox", box)
        self._put("samples/record", record)
        # The crop of the difference, and two masks.
        self.bytes_held += 3 * (x1 - x0) * (y1 - y0) + 2 * mask.nbytes
        # Above the box, the edited image is the original, which is hashed.
        pixels = original.of(edited_HW3, y0)
        self.sample_digests.append(
            row_digest(record, pixels=pixels, mask=mask, object_mask=object_mask)
        )

    def _check(self, result: ImageResult) -> None:
        """Raise RecordError unless everything has the size of the first image."""
        size = result.pixels_HW3.shape[:2]
        self.size_HW = self.size_HW or size
        # Masks of the size of the image are checked too: columns have one shape for all rows.
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
        """Write the shard completely, or leave nothing under its name."""
        return _write(path, self, self.role, profile, category)

    def to_columns(self, profile: Profile) -> list[Column]:
        """The arrays of the file. A column without rows is still written, with zero rows."""
        height, width = self.size_HW or (0, 0)
        # Row shapes of RGB images and of masks packed eight pixels to a byte.
        pixels, bits = (height, width, 3), (height, (width + 7) // 8)
        get = self.columns.get
        # Proposals differ in number per image, so they are one ragged column with offsets.
        proposals = get("originals/proposals", [])
        each = [mask for masks in proposals for mask in masks]
        scores = np.concatenate([_NO_SCORES, *get("originals/proposal_scores", [])])
        originals: list[Column] = [
            Pixels(
                "originals/pixels",
                pixels,
                get("originals/pixels", []),
                checksums=get("originals/checksums", []),
            ),
            Pixels("originals/foreground", bits, get("originals/foreground", []), packs=True),
            Pixels("originals/proposals", bits, each, packs=True),
            ragged("originals/proposal_offsets", proposals),
            Small("originals/proposal_scores", scores),
            Small("originals/split", np.array(get("originals/split", []), np.uint8)),
            *records("originals", get("originals/record", [])),
        ]
        masks, object_masks = get("samples/mask", []), get("samples/object_mask", [])
        sources, crops = get("samples/source", []), get("samples/delta", [])
        # Edits and masks are the only arrays that differ between the profiles.
        if profile == "fast":
            edits = Edits(crops, pixels, get("originals/pixels", []), sources)
            whole: list[Column] = [
                Pixels("samples/edited", pixels, edits),
                Pixels("samples/mask_bytes", (height, width), Bytes(masks, width)),
            ]
        else:
            whole = [
                Pixels("samples/delta", pixels, Edits(crops, pixels), packs=True),
                Pixels("samples/mask", bits, masks, packs=True),
            ]
        return [
            *originals,
            *whole,
            Pixels("samples/object_mask", bits, object_masks, packs=True),
            Small("samples/source", np.array(sources, np.int32)),
            Small("samples/label", np.array(get("samples/label", []), np.uint8)),
            Small("samples/kind", np.array(get("samples/kind", []), np.uint8)),
            Small("samples/bbox", np.array(get("samples/bbox", []), np.int16).reshape(-1, 4)),
            *records("samples", get("samples/record", [])),
        ]


@dataclass(eq=False)
class TestRows:
    """The rows of one test shard until it is written: image, packed masks, JSON record."""

    # Pytest would take a class of this name for a test case.
    __test__ = False

    columns: list[tuple[TestImage, np.ndarray, bytes]] = field(default_factory=list)
    image_digests: list[str] = field(default_factory=list)
    sample_digests: tuple[str, ...] = ()
    size_HW: tuple[int, int] | None = None
    bytes_held: int = 0

    def add(self, image: TestImage) -> None:
        """Append one test image with its masks."""
        # The first image sets the size.
        size = image.pixels_HW3.shape[:2]
        self.size_HW = self.size_HW or size
        if size != self.size_HW or image.masks_KHW.shape[1:] != size:
            raise RecordError(
                f"{image.name}: all images of a version have one size, expected {self.size_HW}, "
                f"got {size} with masks {image.masks_KHW.shape}"
            )
        masks = pack(image.masks_KHW)
        record = canonical_json(
            {"name": image.name, "digest": image.digest, "defect": image.defect}
        )
        self.columns.append((image, masks, record))
        self.bytes_held += image.pixels_HW3.nbytes + masks.nbytes
        self.image_digests.append(
            row_digest(record, pixels=image.pixels_HW3, masks=masks, values=image.values_K)
        )

    def write(self, path: Path, profile: Profile, category: str) -> ShardInfo:
        """Write the shard completely, or leave nothing under its name."""
        return _write(path, self, "test", profile, category)

    def to_columns(self, profile: Profile) -> list[Column]:
        """The arrays of the file; the same ones in every profile."""
        height, width = self.size_HW or (0, 0)
        images = [image for image, _, _ in self.columns]
        masks = [masks for _, masks, _ in self.columns]
        # Images have 0 to K masks, so they are a ragged column like proposals.
        each = [mask for some in masks for mask in some]
        values = np.concatenate([_NO_VALUES, *(image.values_K for image in images)])
        # Without masks some anomalous images look good, so the label comes from the defect's name.
        labels = [int(image.defect != "good") for image in images]
        return [
            Pixels("images/pixels", (height, width, 3), [image.pixels_HW3 for image in images]),
            Pixels("images/masks", (height, (width + 7) // 8), each, packs=True),
            ragged("images/mask_offsets", masks),
            Small("images/mask_values", values),
            Small("images/label", np.array(labels, np.uint8)),
            *records("images", [record for _, _, record in self.columns]),
        ]


def _write(
    path: Path, rows: SampleRows | TestRows, role: Role, profile: Profile, category: str
) -> ShardInfo:
    # The process id keeps concurrent writers apart; the dot hides the file from listings.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    # The whole file is built in memory first; `HELD_BYTES` of the version writer bounds it.
    columns = rows.to_columns(profile)
    content = file_image(columns, _attributes(rows, role, profile, category), profile)
    try:
        hasher, size = hashlib.sha256(), 0
        with temporary.open("wb") as file:
            for piece in content.pieces():
                size += len(piece)
                # Little at a time: the cache still holds what is hashed when it is written.
                for start in range(0, len(piece), PIECE):
                    hasher.update(piece[start : start + PIECE])
                    file.write(piece[start : start + PIECE])
        # Read back through the reader itself, from disk, before the file gets its name.
        with (TestShardReader if role == "test" else ShardReader)(temporary) as reader:
            compare(reader, columns)
        sync(temporary)
        # The content must be on disk before the name is, and the name before anybody relies on it.
        temporary.replace(path)
        sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    return ShardInfo(
        file=path.name,
        role=role,
        # Computed from memory, so a fault of the disk shows up in `verify`.
        bytes=size,
        sha256=hasher.hexdigest(),
        content=content_digest(rows.image_digests, rows.sample_digests),
        images=len(rows.image_digests),
        samples=len(rows.sample_digests),
        image_digests=tuple(rows.image_digests),
        sample_digests=tuple(rows.sample_digests),
    )


def _attributes(
    rows: SampleRows | TestRows, role: Role, profile: Profile, category: str
) -> dict[str, Any]:
    """Attributes of the file: fixed-length types only, which every HDF5 library reads."""
    return {
        "format": np.int64(FORMAT),
        "role": np.bytes_(role),
        "category": np.bytes_(category.encode()),
        "image_size": np.array(rows.size_HW or (0, 0), np.int64),
        "profile": np.bytes_(profile),
        "kinds": np.array(KINDS, np.bytes_),
        "splits": np.array(SPLITS, np.bytes_),
    }
