"""Packed rows without HDF5 in between, once HDF5 has vouched for them.

A call into HDF5 costs as much as unpacking a small edit. So the first time that a process reads a
packed row, HDF5 decodes it and checks its checksum; from then on the row is unpacked by PyArrow's
lz4 out of a memory map of the file, about three times as fast. The layout of such a chunk is that
of HDF5's registered filter 32004: the size of the row as a big-endian 64-bit number, the size of a
block and the packed size of the first block as 32-bit numbers, the block, and here the four bytes
of fletcher32.
"""

import struct
from typing import Any

import numpy as np

_HEAD, _SUM = struct.Struct(">QII"), 4
_FILTERS = [32004, 3]
"""lz4, then fletcher32."""


class PackedRows:
    """The rows of one chunked array in a mapped file, to be looked at and not changed."""

    def __init__(self, data: Any, file: np.ndarray) -> None:
        self.shape = data.shape[1:]
        self._file = file.data
        self._size = int(np.prod(self.shape)) * data.dtype.itemsize
        self._good = np.zeros(len(data), np.bool_)
        self._places: list[tuple[int, int]] = []
        if _filters(data) == _FILTERS and data.chunks == (1, *self.shape):
            self._find(data)

    def vouch(self, row: int) -> None:
        """HDF5 has read this row, so its bytes are what was written."""
        self._good[row] = bool(self._places)

    def get(self, row: int) -> np.ndarray | None:
        """The row; None where HDF5 has to be asked."""
        if not self._good[row]:
            return None
        start, end = self._places[row]
        size, block, packed = _HEAD.unpack_from(self._file, start)
        content = self._file[start + _HEAD.size : end - _SUM]
        if size != self._size or block < size or packed != len(content):
            return None  # laid out in another way that HDF5 understands
        if packed == size:  # lz4 could not make it smaller
            return np.frombuffer(content, np.uint8).reshape(self.shape)
        unpacked = self._codec.decompress(content, size)
        return np.frombuffer(unpacked, np.uint8).reshape(self.shape)

    def _find(self, data: Any) -> None:
        import pyarrow

        self._codec = pyarrow.Codec("lz4_raw")
        places = [(0, 0)] * len(data)

        def note(chunk: Any) -> None:
            if not chunk.filter_mask:
                end = chunk.byte_offset + chunk.size
                places[chunk.chunk_offset[0]] = (chunk.byte_offset, end)

        data.id.chunk_iter(note)
        if all(_HEAD.size + _SUM < end - start for start, end in places):
            self._places = places


def _filters(data: Any) -> list[int]:
    made = data.id.get_create_plist()
    return [made.get_filter(number)[0] for number in range(made.get_nfilters())]
