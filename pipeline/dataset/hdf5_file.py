"""What all shards have in common: a lazy HDF5 handle per process, and arrays with checksums.

HDF5 handles do not survive a fork or a pickle, so a handle keeps a path and opens on first use in
each process. No damage of an array goes unnoticed. HDF5 itself checks chunks (fletcher32) and its
own metadata. Contiguous rows are read through a memory map at the offset that HDF5 states, which is
much faster than through HDF5; each has a CRC-32 beside it, which is checked when a process reads
the row for the first time. Rows are read one by one or copied out of the map, because h5py is
hundreds of times slower with a list of rows.
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self
from weakref import WeakValueDictionary

import numpy as np
from isal.isal_zlib import crc32

from pipeline.dataset.files import FORMAT
from pipeline.dataset.lz4_chunks import PackedRows
from pipeline.errors import IntegrityError, UserError
from pipeline.records import MAX_PIXELS

# HDF5's registered number of the filter LZ4.
LZ4 = 32004
# Suffix of an array of checksums, after the name of the array whose rows it covers.
CRC = "_crc32"
# What HDF5 and h5py raise on damaged bytes.
DAMAGED = (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError,
           OverflowError, MemoryError)  # fmt: skip
# How many times larger than its file an array may claim to be (deflate's limit is 1032), and the
# largest row in bytes: a damaged header of a few bytes must not allocate all memory.
MOST_UNPACKED, MOST_ROW = 1100, 3 * MAX_PIXELS
# Files that one process keeps open. A large version may have more shards than the system's limit.
MOST_OPEN = 200
# The open handles of this process in the order of opening.
_OPEN: WeakValueDictionary[int, "Handle"] = WeakValueDictionary()


class Handle:
    """One shard file, opened on first use in each process."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        _OPEN.pop(id(self), None)
        # Process that has the file open; 0 for none. After a fork it differs from the child's.
        self._pid = 0
        self._file: Any = None
        # Everything that is kept between reads, by a prefix for its sort and the array's name.
        self._arrays: dict[str, Any] = {}
        self.attrs: dict[str, Any] = {}
        self._profile = ""

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        # A handle inherited through a fork is the parent's and is only forgotten here.
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._forget()

    @property
    def size_HW(self) -> tuple[int, int]:
        """(H, W) of every image of the shard."""
        self._open()
        height, width = self.attrs["image_size"]
        return int(height), int(width)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names that the numbers in `samples/kind` stand for."""
        self._open()
        return tuple(kind.decode() for kind in self.attrs["kinds"])

    @property
    def profile(self) -> str:
        """`default`, `portable` or `fast`: which arrays the file holds, and how they are stored."""
        self._open()
        return self._profile

    def array(self, name: str) -> np.ndarray:
        """A small array as a whole, kept in memory after the first read."""
        self._open()
        key = f"array:{name}"
        if key not in self._arrays:
            self._arrays[key] = self._read(name, slice(None))
        return self._arrays[key]

    def mapped(self, name: str, rows: Any = None) -> np.ndarray | None:
        """A contiguous array as a read-only memory map, or None where HDF5 must decode it.

        `rows` (an int, a slice or an array) are the ones about to be read. They are compared with
        their checksums unless this process has done so already.
        """
        self._open()
        key = f"map:{name}"
        if key not in self._arrays:
            try:
                self._arrays[key] = self._map(self._data(name))
            except DAMAGED as error:
                raise self._damaged(name, error) from error
        mapped = self._arrays[key]
        if mapped is not None and rows is not None:
            self._check(name, mapped, rows)
        return mapped

    def _open(self) -> None:
        if self._pid == os.getpid():
            return
        import h5py

        self._forget()
        try:
            # A published shard never changes, so no lock is needed, and some network folders
            # allow none. A cache of decompressed chunks would hold megabytes per shard and never
            # be hit.
            self._file = h5py.File(self.path, "r", locking=False, rdcc_nbytes=0)
            self.attrs = dict(self._file.attrs)
            number = int(self.attrs["format"])
            profile = self.attrs["profile"].decode()
            height, width = map(int, self.attrs["image_size"])
            if min(height, width) < 0 or height * width > MAX_PIXELS:
                raise ValueError(f"images of {height} x {width} px")
        except FileNotFoundError:
            raise IntegrityError(f"shard {self.path} is missing; copy the whole version") from None
        except DAMAGED as error:
            raise IntegrityError(f"shard {self.path} is damaged: {error}") from error
        # The format is checked after the file has proved readable: damage is not another format.
        if number != FORMAT:
            raise UserError(
                f"shard {self.path} has format {number}, this release reads {FORMAT}; "
                "use the release that wrote it, or generate the version again"
            )
        self._profile = profile
        if self._profile == "default":
            _require_plugin(self.path)
        self._pid = os.getpid()
        _OPEN[id(self)] = self
        while len(_OPEN) > MOST_OPEN:
            # The handle that was opened first; it opens again when it is read next.
            next(_OPEN.values()).close()

    def _data(self, name: str) -> Any:
        """An array of the file, which must lie in this very file.

        HDF5 can also take an array from another file of the machine: through a link, from external
        raw bytes, or as a virtual dataset. Our writers use none of these, so a file that does was
        made to read something else.
        """
        key = f"data:{name}"
        if key not in self._arrays:
            import h5py

            # Both the group and the array itself may be links.
            group, _, _ = name.partition("/")
            for link in (group, name):
                if not isinstance(self._file.get(link, getlink=True), h5py.HardLink):
                    raise ValueError("a link to another place")
            data = self._file[name]
            if data.external or data.is_virtual:
                raise ValueError("its bytes are said to lie in another file")
            # The size is checked before anything of that size is allocated.
            row = data.nbytes // max(1, data.shape[0])
            if data.nbytes > MOST_UNPACKED * self.path.stat().st_size or row > MOST_ROW:
                raise ValueError(f"{data.nbytes:,} bytes are more than the file can hold")
            self._arrays[key] = data
        return self._arrays[key]

    def _map(self, data: Any) -> np.ndarray | None:
        """A view of the mapped file where the array is contiguous, else None."""
        offset = data.id.get_offset()
        if offset is None or data.chunks is not None or data.external or not data.size:
            return None
        whole = self._whole()
        # The offset comes from the file, which may be damaged.
        end = offset + data.size * data.dtype.itemsize
        if end > len(whole):
            raise ValueError("the file is truncated")
        return whole[offset:end].view(data.dtype).reshape(data.shape)

    def _whole(self) -> np.ndarray:
        """The bytes of the file: one map for all arrays, so one file descriptor."""
        if "file" not in self._arrays:
            self._arrays["file"] = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        return self._arrays["file"]

    def _still_whole(self, name: str) -> None:
        """Check the size first: reading a map beyond the end of its file kills the process."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != len(self._whole()):
            raise self._damaged(name, ValueError(f"it has {size} bytes, had {len(self._whole())}"))

    def _check(self, name: str, mapped: np.ndarray, rows: Any) -> None:
        """Compare rows with their CRC-32, each once per process."""
        key = f"good:{name}"
        good = self._arrays.get(key)
        if good is None:
            good = self._arrays[key] = np.zeros(len(mapped), np.bool_)
        if good[rows].all():
            return
        # Some row is new to this process, so the map is about to be read.
        self._still_whole(name)
        expected = self.array(name + CRC)
        for row in np.arange(len(mapped))[rows].reshape(-1).tolist():
            if not good[row] and crc32(mapped[row].data) != expected[row]:
                raise self._damaged(name, ValueError(f"row {row} is not what its CRC-32 says"))
            good[row] = True

    def _read(self, name: str, rows: Any) -> np.ndarray:
        self._open()
        try:
            return self._data(name)[rows]
        except DAMAGED as error:
            raise self._damaged(name, error) from error

    def packed(self, name: str, row: int) -> np.ndarray:
        """A row of a chunked array; callers must not change it."""
        self._open()
        key = f"packed:{name}"
        if key not in self._arrays:
            try:
                self._arrays[key] = PackedRows(self._data(name), self._whole())
            except DAMAGED as error:
                raise self._damaged(name, error) from error
        rows: PackedRows = self._arrays[key]
        found = rows.get(row)
        if found is None:
            # Reading through HDF5 checks the row's checksum; later reads may skip HDF5.
            found = self._read(name, row)
            rows.mark_checked(row)
        return found

    def stored(self, name: str, rows: int | slice) -> np.ndarray:
        """A row or adjacent rows as they are stored; callers must not change them."""
        mapped = self.mapped(name, rows)
        return self._read(name, rows) if mapped is None else mapped[rows]

    def _row(self, name: str, row: int) -> np.ndarray:
        """A row that belongs to the caller."""
        mapped = self.mapped(name, row)
        return self._read(name, row) if mapped is None else np.array(mapped[row])

    def _span(self, name: str, offsets: str, row: int) -> np.ndarray:
        """The rows of a ragged array that belong to one image."""
        start, stop = (int(value) for value in self.array(offsets)[row : row + 2])
        rows = slice(start, stop)
        mapped = self.mapped(name, rows)
        return self._read(name, rows) if mapped is None else np.array(mapped[rows])

    def _record(self, group: str, row: int) -> dict[str, Any]:
        """One JSON record out of the concatenated ones (`hdf5_columns.records`)."""
        start, stop = self.array(f"{group}/record_offsets")[row : row + 2]
        try:
            return json.loads(self.array(f"{group}/record_blob")[start:stop].tobytes())
        except ValueError as error:
            raise IntegrityError(f"shard {self.path}: record {row} is damaged: {error}") from error

    def _damaged(self, name: str, error: Exception) -> IntegrityError:
        return IntegrityError(f"shard {self.path} is damaged at {name}: {error}")


def _require_plugin(path: Path) -> None:
    import h5py

    if h5py.h5z.filter_avail(LZ4):
        return
    # HDF5 loads this filter alone from there; importing the package would load all twelve.
    package = find_spec("hdf5plugin")
    for folder in (package and package.submodule_search_locations) or ():
        h5py.h5pl.append(os.fsencode(Path(folder) / "plugins"))
    if not h5py.h5z.filter_avail(LZ4):
        raise UserError(
            f"shard {path} is compressed with LZ4, which h5py reads with the hdf5plugin package; "
            "install hdf5plugin, or publish with the portable or fast profile"
        )
