"""A file in memory that HDF5 writes and that then goes to disk in pieces, without a copy.

HDF5's own driver for that copies the whole file once more at the end, and crashes the process on a
full disk if it is given a real one.
"""

from collections.abc import Iterator

import numpy as np

# Bytes by which the buffer grows at least.
_STEP = 1 << 20


class MemoryFile:
    """A file object for h5py's driver `fileobj`, with `room` bytes to begin with."""

    def __init__(self, room: int) -> None:
        # Memory that nobody has written to costs nothing.
        self._bytes = np.zeros(room + _STEP, np.uint8)
        self._at = self._end = 0
        # Rows that stay where they are, and their places.
        self._kept: list[tuple[int, np.ndarray]] = []

    def pieces(self) -> Iterator[memoryview]:
        """What was written, in order: parts of the buffer and the rows of `keep`."""
        at = 0
        for offset, array in sorted(self._kept, key=lambda kept: kept[0]):
            if offset > at:
                yield self._bytes[at:offset].data
            yield array.data
            at = offset + array.size
        if self._end > at:
            yield self._bytes[at : self._end].data

    def keep(self, offset: int, row: np.ndarray) -> None:
        """Take an array (uint8) for a place that HDF5 has set aside, without copying it.

        It must not change before `pieces` were used. HDF5 does not see it.
        """
        row = np.ascontiguousarray(row).reshape(-1)
        self._reach(offset + row.size)
        self._kept.append((offset, row))

    def put(self, offset: int, array: np.ndarray) -> None:
        """Write an array (uint8) at a place that HDF5 has set aside for it."""
        self._reach(offset + array.size)
        self._bytes[offset : offset + array.size].reshape(array.shape)[...] = array

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        end = self._end if size < 0 else min(self._end, self._at + size)
        found = self._bytes[self._at : end].tobytes()
        self._at += len(found)
        return found

    def readinto(self, buffer: memoryview) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def write(self, content: bytes) -> int:
        end = self._at + len(content)
        self._reach(end)
        self._bytes.data[self._at : end] = content
        self._at = end
        return len(content)

    def truncate(self, size: int) -> int:
        self._reach(size)
        self._end = size
        return size

    def flush(self) -> None:
        """Nothing to do: there is no disk."""

    def _reach(self, end: int) -> None:
        if end > len(self._bytes):
            more = np.zeros(max(end - len(self._bytes), len(self._bytes) // 2, _STEP), np.uint8)
            self._bytes = np.concatenate([self._bytes, more])
        self._end = max(self._end, end)
