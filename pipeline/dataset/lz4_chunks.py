"""LZ4 chunks decompressed without HDF5, once HDF5 has checked them.

A call into HDF5 costs as much as decompressing a small edit. So the first time that a process reads
a row, HDF5 decodes it and verifies its checksum; from then on PyArrow's LZ4 decompresses the row
out of a memory map of the file, about three times as fast. The layout of such a chunk is that of
HDF5's registered filter 32004: the size of the row as a big-endian 64-bit number, the block size
and the compressed size of the first block as 32-bit numbers, the block, and here the four bytes of
fletcher32.
"""

import struct
from functools import cache
from typing import Any

import numpy as np

# Sizes of row, block and compressed block; bytes of fletcher32 at the end.
_HEAD, _SUM = struct.Struct(">QII"), 4
# LZ4, then fletcher32 (`H5Z_FILTER_FLETCHER32`).
_FILTERS = [32004, 3]


class PackedRows:
    """The rows of one chunked array in a mapped file; callers must not change them."""

    def __init__(self, data: Any, file: np.ndarray) -> None:
        self.shape = data.shape[1:]
        self._file = file.data
        self._size = int(np.prod(self.shape)) * data.dtype.itemsize
        self._good = np.zeros(len(data), np.bool_)
        self._places: list[tuple[int, int]] = []
        # Any other layout (gzip, several rows per chunk) is left to HDF5.
        if _filters(data) == _FILTERS and data.chunks == (1, *self.shape):
            self._find(data)

    def mark_checked(self, row: int) -> None:
        """Note that HDF5 has read this row, so its bytes are those that were written."""
        self._good[row] = bool(self._places)

    def get(self, row: int) -> np.ndarray | None:
        """The row; None where it must be read through HDF5."""
        if not self._good[row]:
            return None
        start, end = self._places[row]
        size, block, packed = _HEAD.unpack_from(self._file, start)
        content = self._file[start + _HEAD.size : end - _SUM]
        # Several blocks per row are valid too; HDF5 decodes them.
        if size != self._size or block < size or packed != len(content):
            return None
        # The filter stores a block as it is when LZ4 cannot make it smaller.
        if packed == size:
            return np.frombuffer(content, np.uint8).reshape(self.shape)
        unpacked = _lz4().decompress(content, size)
        return np.frombuffer(unpacked, np.uint8).reshape(self.shape)

    def _find(self, data: Any) -> None:
        """Look up where the file holds each row's chunk."""
        places = [(0, 0)] * len(data)

        def note(chunk: Any) -> None:
            # A set bit means that a filter was skipped for this chunk.
            if not chunk.filter_mask:
                end = chunk.byte_offset + chunk.size
                places[chunk.chunk_offset[0]] = (chunk.byte_offset, end)

        data.id.chunk_iter(note)
        # A chunk that is missing or unfiltered makes the whole array HDF5's business.
        if all(_HEAD.size + _SUM < end - start for start, end in places):
            self._places = places


@cache
def _lz4() -> Any:
    """The codec, once a row is read again: commands that read each row once need no PyArrow."""
    import pyarrow

    return pyarrow.Codec("lz4_raw")


def _filters(data: Any) -> list[int]:
    made = data.id.get_create_plist()
    return [made.get_filter(number)[0] for number in range(made.get_nfilters())]
