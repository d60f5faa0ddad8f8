"""Columns to HDF5 datasets, and the comparison of a written file with what went in.

A column is a name and its rows. Its storage follows from its use and from the profile. Whole images
are contiguous, so readers can memory-map them, with a CRC-32 per row beside them. Columns that
compress well are chunked row by row behind a filter. Small columns are one chunk.
"""

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, Protocol

import numpy as np
from isal.isal_zlib import crc32

from pipeline.dataset.hdf5_file import CRC, Handle
from pipeline.dataset.memory_file import MemoryFile
from pipeline.errors import IntegrityError, UserError

Profile = Literal["default", "portable", "fast"]
# default: LZ4; portable: gzip, which every HDF5 build reads; fast: edits whole, nothing compressed.
PROFILES: tuple[Profile, ...] = ("default", "portable", "fast")
# Bounds on the version of HDF5's file format: since 1.10 HDF5's own metadata carries checksums.
LIBVER = ("v110", "v110")
# Bytes of decoded rows that are read back and compared at a time: the processor's cache holds them.
BLOCK = 1 << 17


class Rows(Protocol):
    """Rows that can be iterated more than once; they may be computed during iteration."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[np.ndarray]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Pixels:
    """A column of uint8 rows of one shape. `packs` says that it compresses well.

    `checksums` are the CRC-32 of the rows where they are known; else they are computed.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows
    packs: bool = False
    checksums: list[int] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Small:
    """A column that readers load as a whole. `packs` as above."""

    name: str
    values: np.ndarray
    packs: bool = False


Column = Pixels | Small


@dataclass(frozen=True, slots=True, eq=False)
class Edits:
    """Full-size edited images, rebuilt during iteration from the crop that each edit changed. Each
    is gone when the next one comes.

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
        # One array for all: memory that is new to the process takes longer than what it holds.
        full = np.zeros(self.shape, np.uint8)
        for row, ((x0, y0, x1, y1), crop) in enumerate(self.crops):
            if self.originals is not None:
                np.copyto(full, self.originals[self.sources[row]])
            # uint8 wraps around, which undoes the difference exactly.
            full[y0:y1, x0:x1] += crop
            yield full
            full[y0:y1, x0:x1] = 0


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


def file_image(columns: Iterable[Column], attrs: dict[str, Any], profile: Profile) -> MemoryFile:
    """The HDF5 file, written in memory: on a full disk HDF5 crashes the process.

    It refers to whole rows of lists instead of holding copies of them.
    """
    # Imported here: opening a version must not load HDF5.
    import h5py

    packing, columns = _packing(profile), list(columns)
    # Growing later would copy the whole buffer.
    memory = MemoryFile(sum(map(_most_bytes, columns)))
    # Every chunk is written once and whole: a cache of chunks would only push out what is hot.
    with h5py.File(memory, "w", libver=LIBVER, rdcc_nbytes=0) as file:
        file.attrs.update(attrs)
        for column in columns:
            if isinstance(column, Small):
                _write_small(file, column, packing)
            elif column.packs and packing:
                _write_packed(file, column, packing)
            else:
                _write_whole(file, column, memory)
    return memory


def compare(reader: Handle, columns: Iterable[Column]) -> None:
    """IntegrityError unless every column reads back byte for byte through the reader itself."""
    for column in columns:
        if isinstance(column, Small):
            _same(reader, column.name, "the column", reader.array(column.name), column.values)
            continue
        # Of contiguous rows the bytes are compared; their checksums are only read, which checks
        # those of HDF5: they were computed from the same rows.
        mapped = reader.mapped(column.name)
        if mapped is not None:
            reader.array(column.name + CRC)
        # Rows that HDF5 decodes are read several at a time where they are small.
        block, got = max(1, BLOCK // max(1, prod(column.shape))), mapped
        for number, row in enumerate(column.rows):
            if mapped is None and number % block == 0:
                last = min(number + block, len(column.rows))
                got = reader.stored(column.name, slice(number, last))
            assert got is not None
            here = number if mapped is not None else number % block
            _same(reader, column.name, f"row {number}", got[here], row)


def same_bytes(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same dtype, shape and content; NaN equals nothing."""
    return one.dtype == other.dtype and one.shape == other.shape and not (one != other).any()


def _same(reader: Handle, name: str, what: str, got: np.ndarray, expected: np.ndarray) -> None:
    if not same_bytes(got, expected):
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


def _most_bytes(column: Column) -> int:
    """Bytes that a column hardly exceeds; of compressed differences only the crops count."""
    if isinstance(column, Small):
        return column.values.nbytes
    whole = len(column.rows) * int(np.prod(column.shape))
    if column.packs and isinstance(column.rows, Edits):
        return whole // 64 + sum(crop.nbytes for _, crop in column.rows.crops)
    return whole


def _write_packed(file: Any, column: Pixels, packing: dict[str, Any]) -> None:
    import h5py

    shape = (len(column.rows), *column.shape)
    # HDF5 allows no chunk of size zero, so empty columns stay contiguous.
    chunked = {"chunks": (1, *column.shape), "fletcher32": True, **packing} if all(shape) else {}
    # Timestamps would give equal data different bytes.
    data = file.create_dataset(column.name, shape, np.uint8, track_times=False, **chunked)
    # Row by row, so that the processor's cache holds what is compressed; `data[number] = row` does
    # the same for twice the price.
    first, one = (0,) * len(column.shape), (1, *column.shape)
    here, there = h5py.h5s.create_simple(one), h5py.h5s.create_simple(shape)
    for number, row in enumerate(column.rows):
        there.select_hyperslab((number, *first), one)
        data.id.write(here, there, np.ascontiguousarray(row), h5py.h5t.NATIVE_UINT8)


def _write_whole(file: Any, column: Pixels, memory: MemoryFile) -> None:
    """Contiguous rows: HDF5 sets their place aside, and does not see them."""
    import h5py

    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    made.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    shape = (len(column.rows), *column.shape)
    data = file.create_dataset(column.name, shape, np.uint8, track_times=False, dcpl=made)
    offset, known = data.id.get_offset(), column.checksums
    checksums = np.array(known or [0] * len(column.rows), np.uint32)
    # Rows that are computed during iteration are gone when the next one comes.
    place = memory.keep if isinstance(column.rows, list) else memory.put
    for number, row in enumerate(column.rows):
        place(offset + number * row.size, row)
        # HDF5 computes fletcher32 for chunks only; contiguous rows carry checksums of their own.
        if known is None:
            checksums[number] = crc32(np.ascontiguousarray(row).data)
    _write_small(file, Small(column.name + CRC, checksums), {})


def _write_small(file: Any, column: Small, packing: dict[str, Any]) -> None:
    options: dict[str, Any] = {}
    # One chunk: fletcher32 needs chunks, and these columns are read as a whole.
    if column.values.size:
        options = {"chunks": column.values.shape, "fletcher32": True}
        options |= packing if column.packs else {}
    file.create_dataset(column.name, data=column.values, track_times=False, **options)
