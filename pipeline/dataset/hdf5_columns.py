"""Columns to HDF5 datasets, and the comparison of a written file with what went in.

A column is a name and its rows. Its storage follows from its use and from the profile. Whole images
are contiguous, so readers can memory-map them, with a CRC-32 per row beside them. Columns that
compress well are chunked row by row behind a filter. Small columns are one chunk.
"""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, Protocol
from zlib import crc32

import numpy as np

from pipeline.dataset.hdf5_file import CRC, Handle
from pipeline.errors import IntegrityError, UserError

Profile = Literal["default", "portable", "fast"]
# default: LZ4; portable: gzip, which every HDF5 build reads; fast: edits whole, nothing compressed.
PROFILES: tuple[Profile, ...] = ("default", "portable", "fast")
# Bounds on the version of HDF5's file format: since 1.10 HDF5's own metadata carries checksums.
LIBVER = ("v110", "v110")
# Bytes that are handed to HDF5 at a time.
BLOCK = 2 << 20


class Rows(Protocol):
    """Rows that can be iterated more than once; they may be computed during iteration."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A column of uint8 rows of one shape. `packs` says that it compresses well."""

    name: str
    shape: tuple[int, ...]
    rows: Rows
    packs: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Small:
    """A column that readers load as a whole. `packs` as above."""

    name: str
    values: np.ndarray
    packs: bool = False


Column = Pixels | Small


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """Full-size edited images, rebuilt during iteration from the crop that each edit changed.

    `crops` holds a box (x0 y0 x1 y1, exclusive end) and the uint8 difference from the original
    inside it, modulo 256. With `originals`, `sources` gives each edit's row among them and whole
    edited images come out; without, the difference itself, zero outside the box.
    """

    crops: list[tuple[tuple[int, int, int, int], np.ndarray]]
    shape: tuple[int, ...]
    originals: list[np.ndarray] | None = None
    sources: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.crops)

    def __iter__(self) -> Iterator[np.ndarray]:
        for row, ((x0, y0, x1, y1), crop) in enumerate(self.crops):
            if self.originals is None:
                full = np.zeros(self.shape, np.uint8)
            else:
                full = self.originals[self.sources[row]].copy()
            # uint8 wraps around, which undoes the difference exactly.
            full[y0:y1, x0:x1] += crop
            yield full


@dataclass(frozen=True, slots=True, eq=False)
class Bytes:
    """Bit-packed masks (H, ceil(W/8)) as (H, W) uint8, 0 or 1."""

    bits: list[np.ndarray]
    width: int

    def __len__(self) -> int:
        return len(self.bits)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (np.unpackbits(mask, axis=-1, count=self.width) for mask in self.bits)


def ragged(name: str, groups: Iterable[Sized]) -> Small:
    """The int64 column of offsets: group i has the rows `offsets[i]` to `offsets[i + 1]`."""
    return Small(name, np.cumsum([0, *(len(group) for group in groups)], dtype=np.int64))


def records(group: str, rows: list[bytes]) -> list[Column]:
    """JSON records, concatenated, and the offset of each.

    Not HDF5 strings: those of variable length lie in a heap that no filter compresses or checks.
    """
    blob = np.frombuffer(b"".join(rows), np.uint8)
    return [
        Small(f"{group}/record_blob", blob, packs=True),
        ragged(f"{group}/record_offsets", rows),
    ]


def file_image(columns: Iterable[Column], attrs: dict[str, Any], profile: Profile) -> memoryview:
    """The bytes of the HDF5 file, written in memory: on a full disk HDF5 crashes the process."""
    # Imported here: opening a version must not load HDF5.
    import h5py

    packing, columns = _packing(profile), list(columns)
    # Allocate what is not compressed at once; growing later would copy the whole buffer.
    room = (1 << 20) + sum(_plain_bytes(column, packing) for column in columns)
    options = {"driver": "core", "backing_store": False, "block_size": room, "libver": LIBVER}
    # The name is never that of a file; it differs per call, so files open at once stay apart.
    with h5py.File(f"shard-in-memory-{id(attrs)}", "w", **options) as file:
        file.attrs.update(attrs)
        for column in columns:
            if isinstance(column, Small):
                _write_small(file, column, packing)
            else:
                _write_pixels(file, column, packing)
        # Without a flush the image lacks what HDF5 still caches.
        file.flush()
        return memoryview(file.id.get_file_image())


def compare(reader: Handle, columns: Iterable[Column]) -> None:
    """IntegrityError unless every column reads back byte for byte through the reader itself."""
    # In the same blocks as written, so memory stays small.
    for column in columns:
        if isinstance(column, Small):
            _same(reader, column.name, "the column", reader.array(column.name), column.values)
            continue
        for rows, expected in _blocks(column):
            what = f"one of the rows {rows.start} to {rows.stop - 1}"
            _same(reader, column.name, what, reader.stored(column.name, rows), expected)


def _same(reader: Handle, name: str, what: str, got: np.ndarray, expected: np.ndarray) -> None:
    if got.dtype != expected.dtype or not np.array_equal(got, expected):
        raise IntegrityError(f"{reader.path}: {what} of {name} does not read back as written")


def _packing(profile: Profile) -> dict[str, Any]:
    """Filter arguments of h5py for what compresses well."""
    if profile == "portable":
        # Level 1: the data is mostly zeros, on which higher levels cost time and gain little.
        return {"compression": "gzip", "compression_opts": 1}
    if profile == "fast":
        return {}
    if profile != "default":
        raise UserError(f"expected a profile out of {', '.join(PROFILES)}, got {profile!r}")
    import hdf5plugin

    return dict(hdf5plugin.LZ4())


def _plain_bytes(column: Column, packing: dict[str, Any]) -> int:
    """Bytes that a column takes uncompressed; 0 where a filter will make it small."""
    if isinstance(column, Small):
        return column.values.nbytes
    return 0 if column.packs and packing else len(column.rows) * int(np.prod(column.shape))


def _write_pixels(file: Any, column: Pixels, packing: dict[str, Any]) -> None:
    shape, packed = (len(column.rows), *column.shape), bool(column.packs and packing)
    options: dict[str, Any] = {}
    # HDF5 allows no chunk of size zero, so empty columns stay contiguous.
    if packed and all(shape):
        options = {"chunks": (1, *column.shape), "fletcher32": True, **packing}
    # Timestamps would give equal data different bytes.
    data = file.create_dataset(column.name, shape, np.uint8, track_times=False, **options)
    checksums = np.zeros(len(column.rows), np.uint32)
    for rows, block in _blocks(column):
        data[rows] = block
        # HDF5 computes fletcher32 for chunks only; contiguous rows carry checksums of their own.
        if not packed:
            checksums[rows] = [crc32(row.data) for row in block]
    if not packed:
        _write_small(file, Small(column.name + CRC, checksums), {})


def _blocks(column: Pixels) -> Iterator[tuple[slice, np.ndarray]]:
    """The rows of a column in blocks, because a call into HDF5 costs as much as a small row."""
    rows, start = iter(column.rows), 0
    count = max(1, BLOCK // max(1, int(np.prod(column.shape))))
    while some := list(islice(rows, count)):
        yield slice(start, start + len(some)), np.stack(some)
        start += len(some)


def _write_small(file: Any, column: Small, packing: dict[str, Any]) -> None:
    options: dict[str, Any] = {}
    # One chunk: fletcher32 needs chunks, and these columns are read as a whole.
    if column.values.size:
        options = {"chunks": column.values.shape, "fletcher32": True}
        options |= packing if column.packs else {}
    file.create_dataset(column.name, data=column.values, track_times=False, **options)
