"""Reading shards: one lazy handle per process, fast rows, and no silence about damage.

HDF5 handles do not survive a fork or a pickle, so a reader keeps a path and opens on first use in
each process. Uncompressed arrays are read through a memory map at the offset that HDF5 states;
everything else row by row, because h5py is hundreds of times slower with a list of rows. A shard
that is missing or damaged raises IntegrityError with its name and never yields zeros.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.digests import digest_of, sha256_array
from pipeline.errors import IntegrityError, UserError

FORMAT = 1
"""The format number of shards and index; a reader refuses a number that it does not know."""


def pack(mask: np.ndarray) -> np.ndarray:
    """Bool (..., H, W) as bits, (..., H, ceil(W/8)) uint8; the first pixel is the highest bit."""
    return np.packbits(mask, axis=-1)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """The inverse of `pack`."""
    return np.unpackbits(bits, axis=-1, count=width).view(np.bool_)


def row_digest(record: dict[str, Any], **arrays: np.ndarray) -> str:
    """The digest of one row: its record and its decoded arrays by name."""
    return digest_of({"record": record} | {name: sha256_array(a) for name, a in arrays.items()})


class _Reader:
    """What both kinds of shard share: opening, rows, records."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._forget()

    def _forget(self) -> None:
        self._pid = 0
        self._file: Any = None
        self._arrays: dict[str, Any] = {}
        self.attrs: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the handle; the next read opens it again."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._forget()

    @property
    def size_HW(self) -> tuple[int, int]:
        self._open()
        height, width = self.attrs["image_size"]
        return int(height), int(width)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names behind the numbers of `kind`."""
        self._open()
        return tuple(kind.decode() for kind in self.attrs["kinds"])

    def array(self, name: str) -> np.ndarray:
        """A small array whole, kept in memory after the first read."""
        self._open()
        key = f"array:{name}"
        if key not in self._arrays:
            self._arrays[key] = self._read(name, slice(None))
        return self._arrays[key]

    def mapped(self, name: str) -> np.ndarray | None:
        """A contiguous array as a read-only memory map, or None where HDF5 must decode it."""
        self._open()
        key = f"map:{name}"
        if key not in self._arrays:
            try:
                self._arrays[key] = _memory_map(self.path, self._file[name])
            except (OSError, KeyError, RuntimeError) as error:
                raise IntegrityError(f"shard {self.path} is damaged at {name}: {error}") from error
        return self._arrays[key]

    def _open(self) -> None:
        if self._pid == os.getpid():
            return
        import h5py

        self._forget()
        try:
            self._file = h5py.File(self.path, "r", locking=False)
            self.attrs = dict(self._file.attrs)
            number = int(self.attrs["format"])
        except FileNotFoundError:
            raise IntegrityError(f"shard {self.path} is missing; copy the whole version") from None
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise IntegrityError(f"shard {self.path} is damaged: {error}") from error
        if number != FORMAT:
            raise UserError(
                f"shard {self.path} has format {number}, this release reads {FORMAT}; "
                "use the release that wrote it"
            )
        if self.attrs["profile"] == b"default":
            _require_plugin(self.path)
        self._pid = os.getpid()

    def _read(self, name: str, rows: Any) -> np.ndarray:
        self._open()
        key = f"data:{name}"
        try:
            if key not in self._arrays:
                self._arrays[key] = self._file[name]
            return self._arrays[key][rows]
        except (OSError, KeyError, RuntimeError) as error:
            raise IntegrityError(f"shard {self.path} is damaged at {name}: {error}") from error

    def _row(self, name: str, row: int) -> np.ndarray:
        mapped = self.mapped(name)
        return self._read(name, row) if mapped is None else np.array(mapped[row])

    def _span(self, name: str, offsets: str, row: int) -> np.ndarray:
        """The rows of a ragged array that belong to one image."""
        start, stop = (int(value) for value in self.array(offsets)[row : row + 2])
        mapped = self.mapped(name)
        if mapped is not None:
            return np.array(mapped[start:stop])
        return self._read(name, slice(start, stop))

    def _record(self, group: str, row: int) -> dict[str, Any]:
        start, stop = self.array(f"{group}/record_offsets")[row : row + 2]
        try:
            return json.loads(self.array(f"{group}/record_blob")[start:stop].tobytes())
        except ValueError as error:
            raise IntegrityError(f"shard {self.path}: record {row} is damaged: {error}") from error


class ShardReader(_Reader):
    """Images with their edits. `i` counts the images of the shard, `j` its samples."""

    @property
    def images(self) -> int:
        return len(self.array("originals/split"))

    @property
    def samples(self) -> int:
        return len(self.array("samples/source"))

    def original(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the normal image."""
        return self._row("originals/pixels", i)

    def foreground(self, i: int) -> np.ndarray:
        """(H, W) bool."""
        return unpack(self._row("originals/foreground", i), self.size_HW[1])

    def proposals(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(N, H, W) bool masks, best first, and their (N,) float32 scores."""
        bits = self._span("originals/proposals", "originals/proposal_offsets", i)
        start, stop = self.array("originals/proposal_offsets")[i : i + 2]
        return unpack(bits, self.size_HW[1]), self.array("originals/proposal_scores")[start:stop]

    def image_record(self, i: int) -> dict[str, Any]:
        """Name, digest, split, foreground and counts of an image."""
        return self._record("originals", i)

    def edited(self, j: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the edited image, exact."""
        delta = self.delta(j)
        originals, source = self.mapped("originals/pixels"), self.source(j)
        original = self.original(source) if originals is None else originals[source]
        return np.add(delta, original, out=delta)

    def delta(self, j: int) -> np.ndarray:
        """(H, W, 3) uint8, (edited - original) mod 256."""
        return self._row("samples/delta", j)

    def mask(self, j: int) -> np.ndarray:
        """(H, W) bool, where the sample may differ from its source."""
        return unpack(self._row("samples/mask", j), self.size_HW[1])

    def object_mask(self, j: int) -> np.ndarray:
        """(H, W) bool, the touched object, undilated."""
        return unpack(self._row("samples/object_mask", j), self.size_HW[1])

    def record(self, j: int) -> dict[str, Any]:
        """The lineage of a sample."""
        return self._record("samples", j)

    def source(self, j: int) -> int:
        """The row of the image that the sample was made from."""
        return int(self.array("samples/source")[j])

    def label(self, j: int) -> int:
        """0 normal, 1 anomalous."""
        return int(self.array("samples/label")[j])

    def kind(self, j: int) -> str:
        """The kind of edit."""
        return self.kinds[self.array("samples/kind")[j]]

    def bbox(self, j: int) -> tuple[int, int, int, int]:
        """x0 y0 x1 y1 of the change mask, exclusive end; zeros when it is empty."""
        x0, y0, x1, y1 = self.array("samples/bbox")[j].tolist()
        return x0, y0, x1, y1

    def image_digests(self) -> Iterator[str]:
        """The digest of every image row, recomputed from the decoded arrays."""
        scores, offsets = "originals/proposal_scores", "originals/proposal_offsets"
        for i in range(self.images):
            yield row_digest(
                self.image_record(i),
                pixels=self._row("originals/pixels", i),
                foreground=self._row("originals/foreground", i),
                proposals=self._span("originals/proposals", offsets, i),
                scores=self._span(scores, offsets, i),
            )

    def sample_digests(self) -> Iterator[str]:
        """The digest of every sample row, recomputed from the decoded arrays."""
        for j in range(self.samples):
            yield row_digest(
                self.record(j),
                pixels=self.edited(j),
                mask=self._row("samples/mask", j),
                object_mask=self._row("samples/object_mask", j),
            )


class TestShardReader(_Reader):
    """Images of the real test split with their ground truth."""

    __test__ = False

    @property
    def images(self) -> int:
        return len(self.array("images/label"))

    def original(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self._row("images/pixels", i)

    def masks(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(K, H, W) bool ground-truth regions and their (K,) uint8 grey values; K may be 0."""
        bits = self._span("images/masks", "images/mask_offsets", i)
        start, stop = self.array("images/mask_offsets")[i : i + 2]
        return unpack(bits, self.size_HW[1]), self.array("images/mask_values")[start:stop]

    def label(self, i: int) -> int:
        """0 good, 1 anomalous."""
        return int(self.array("images/label")[i])

    def record(self, i: int) -> dict[str, Any]:
        """Name, digest and defect of an image."""
        return self._record("images", i)

    def image_digests(self) -> Iterator[str]:
        """The digest of every image row, recomputed from the decoded arrays."""
        for i in range(self.images):
            yield row_digest(
                self.record(i),
                pixels=self._row("images/pixels", i),
                masks=self._span("images/masks", "images/mask_offsets", i),
                values=self._span("images/mask_values", "images/mask_offsets", i),
            )

    def sample_digests(self) -> Iterator[str]:
        """A test shard holds no samples."""
        return iter(())


def _memory_map(path: Path, data: Any) -> np.ndarray | None:
    offset = data.id.get_offset()
    if offset is None or data.chunks is not None or data.external or not data.size:
        return None
    if offset + data.size * data.dtype.itemsize > path.stat().st_size:
        raise IntegrityError(f"shard {path} is cut short: {data.name} ends beyond the file")
    return np.memmap(path, data.dtype, "r", offset, data.shape)


def _require_plugin(path: Path) -> None:
    try:
        import hdf5plugin  # noqa: F401  importing it registers the lz4 filter
    except ImportError:
        raise UserError(
            f"shard {path} is packed with lz4, which h5py reads with the hdf5plugin package; "
            "install hdf5plugin, or publish with the portable profile"
        ) from None
