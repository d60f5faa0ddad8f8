"""Reading shards: rows one by one, or samples in batches into memory that is reused.

Pixels come out exactly as they went in, with every profile: `default` and `portable` store an edit
as its difference from the original, `fast` stores it whole. A shard that is missing or damaged
raises IntegrityError with its name and never yields zeros.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipeline.dataset.hdf5_file import Handle
from pipeline.errors import UserError
from pipeline.utils.hashing import canonical_json, sha256_array

# What `fill` reads through the memory map; the profiles other than `fast` have the first only.
_MAPPED_WHOLE = ("originals/pixels", "samples/edited", "samples/mask_bytes")


def pack(mask: np.ndarray) -> np.ndarray:
    """Bool (..., H, W) as bits, (..., H, ceil(W/8)) uint8; the first pixel is the highest bit."""
    return np.packbits(mask, axis=-1)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """The inverse of `pack`."""
    return np.unpackbits(bits, axis=-1, count=width).view(np.bool_)


def row_digest(record: bytes, **arrays: np.ndarray | str) -> str:
    """The digest of one row: its record as canonical JSON, and its decoded arrays by name, or their
    digests where they are known."""
    # Arrays enter by their own digests, so a row never has to be held as one block of bytes.
    members = {"record": record}
    for name, array in arrays.items():
        digest = array if isinstance(array, str) else sha256_array(array)
        members[name] = f'"{digest}"'.encode()
    # Canonical JSON of all members, without building the record's a second time.
    parts = (b'"%b":%b' % (name.encode(), members[name]) for name in sorted(members))
    return hashlib.sha256(b"{" + b",".join(parts) + b"}").hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class SampleBatch:
    """Memory for B samples: (B, H, W, 3) uint8 originals and edits, (B, H, W) bool masks."""

    originals_BHW3: np.ndarray
    edited_BHW3: np.ndarray
    masks_BHW: np.ndarray

    @classmethod
    def empty(cls, count: int, size_HW: tuple[int, int]) -> Self:
        """Uninitialised memory for `count` samples."""
        pixels, masks = (count, *size_HW, 3), (count, *size_HW)
        return cls(np.empty(pixels, np.uint8), np.empty(pixels, np.uint8), np.empty(masks, bool))

    def __len__(self) -> int:
        return len(self.masks_BHW)

    def head(self, count: int) -> "SampleBatch":
        """The first `count` samples, in the same memory."""
        if count > len(self):
            raise UserError(f"{count} samples do not fit into a batch of {len(self)}")
        return SampleBatch(
            self.originals_BHW3[:count], self.edited_BHW3[:count], self.masks_BHW[:count]
        )


class ShardReader(Handle):
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
        # Scores have the same offsets as masks.
        start, stop = self.array("originals/proposal_offsets")[i : i + 2]
        return unpack(bits, self.size_HW[1]), self.array("originals/proposal_scores")[start:stop]

    def image_record(self, i: int) -> dict[str, Any]:
        """Name, digest, split, foreground and counts of an image."""
        return self._record("originals", i)

    def edited(self, j: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB, the edited image, exact."""
        if self.profile == "fast":
            return self._row("samples/edited", j)
        # uint8 addition wraps around, which undoes the difference modulo 256.
        original = self.stored("originals/pixels", self.source(j))
        return np.add(original, self.packed("samples/delta", j))

    def delta(self, j: int) -> np.ndarray:
        """(H, W, 3) uint8, (edited - original) mod 256."""
        if self.profile != "fast":
            return self._row("samples/delta", j)
        # `fast` stores the edited image, so the difference is computed, modulo 256 as above.
        edited = self.edited(j)
        return np.subtract(edited, self.original(self.source(j)), out=edited)

    def mask(self, j: int) -> np.ndarray:
        """(H, W) bool, where the sample may differ from its source."""
        if self.profile == "fast":
            return self._row("samples/mask_bytes", j).view(np.bool_)
        return unpack(self.packed("samples/mask", j), self.size_HW[1])

    def masked_pixels(self, j: int) -> int:
        """The number of pixels that the mask covers."""
        if self.profile == "fast":
            return int(np.count_nonzero(self.mask(j)))
        # Bits behind the last column are zero.
        return int(np.bitwise_count(self.packed("samples/mask", j)).sum())

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

    def batch(
        self, rows: Sequence[int] | np.ndarray, out: SampleBatch | None = None
    ) -> SampleBatch:
        """Samples in any order, repeats allowed, written to the start of `out` when it is given.

        The result shares the memory of `out`, so the next batch into it overwrites this one.
        """
        # Checked once for the whole batch; `fill` relies on it.
        rows = np.asarray(rows, np.intp)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.samples:
            raise IndexError(f"{self.path} holds {self.samples} samples, requested {rows.tolist()}")
        out = SampleBatch.empty(len(rows), self.size_HW) if out is None else out.head(len(rows))
        self.fill(out, range(len(rows)), rows.tolist())
        return out

    def fill(self, out: SampleBatch, places: Sequence[int], rows: list[int]) -> None:
        """Put sample `rows[k]` into place `places[k]`; callers make sure that the rows exist."""
        if not rows:
            return
        # This also opens the file, so `_profile` is set from here on.
        maps, sources = self._checked_maps(rows)
        originals_BHW3, edited_BHW3 = out.originals_BHW3, out.edited_BHW3
        if self._profile != "fast":
            originals, width = maps[0], self.size_HW[1]
            for place, row in zip(places, rows, strict=True):
                # One sample after the other: its pixels are still in the processor's cache when
                # the difference is added.
                original_HW3 = originals[sources[row]]
                originals_BHW3[place] = original_HW3
                delta_HW3 = self.packed("samples/delta", row)
                np.add(original_HW3, delta_HW3, out=edited_BHW3[place])
                out.masks_BHW[place] = unpack(self.packed("samples/mask", row), width)
            return
        masks_BHW = out.masks_BHW.view(np.uint8)
        # Adjacent places take one call per array instead of one per row.
        if isinstance(places, range):
            some = slice(places.start, places.stop)
            chosen = ([sources[row] for row in rows], rows, rows)
            for mapped, wanted, target in zip(
                maps, chosen, (originals_BHW3, edited_BHW3, masks_BHW), strict=True
            ):
                # The rows exist. With `out`, the default mode "raise" would copy through a
                # buffer; "clip" does not.
                np.take(mapped, wanted, 0, target[some], "clip")
            return
        originals, edited, masks = maps
        for place, row in zip(places, rows, strict=True):
            originals_BHW3[place] = originals[sources[row]]
            edited_BHW3[place] = edited[row]
            masks_BHW[place] = masks[row]

    def _checked_maps(self, rows: list[int]) -> tuple[list[np.ndarray], list[int]]:
        """The mapped arrays, with `rows` compared with their checksums, and every sample's source.

        One byte per sample notes what this process has checked: cheaper per row than `mapped`.
        """
        self._open()
        names = _MAPPED_WHOLE if self._profile == "fast" else _MAPPED_WHOLE[:1]
        # Once per process: the maps, the sources, and a byte per sample.
        if "checked" not in self._arrays:
            maps = [self.mapped(name) for name in names]
            if any(mapped is None for mapped in maps):
                raise self._damaged(names[0], ValueError("it is not contiguous"))
            sources = self.array("samples/source").tolist()
            self._arrays["checked"] = maps, sources, bytearray(len(sources))
        maps, sources, done = self._arrays["checked"]
        for row in rows:
            if not done[row]:
                # Originals have a row per image, the other arrays one per sample.
                for name in names:
                    self.mapped(name, sources[row] if name == names[0] else row)
                done[row] = True
        return maps, sources

    def image_digests(self) -> Iterator[str]:
        """The digest of every image row, recomputed from the decoded arrays."""
        scores, offsets = "originals/proposal_scores", "originals/proposal_offsets"
        for i in range(self.images):
            yield row_digest(
                canonical_json(self.image_record(i)),
                pixels=self._row("originals/pixels", i),
                foreground=self._row("originals/foreground", i),
                proposals=self._span("originals/proposals", offsets, i),
                scores=self._span(scores, offsets, i),
            )

    def sample_digests(self) -> Iterator[str]:
        """The digest of every sample row, recomputed from the decoded arrays."""
        for j in range(self.samples):
            yield row_digest(
                canonical_json(self.record(j)),
                pixels=self.edited(j),
                mask=pack(self.mask(j)),
                object_mask=self._row("samples/object_mask", j),
            )


class TestShardReader(Handle):
    """Images of the real test split with their ground truth."""

    # Pytest would take a class of this name for a test case.
    __test__ = False

    @property
    def images(self) -> int:
        return len(self.array("images/label"))

    def original(self, i: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB."""
        return self._row("images/pixels", i)

    def masks(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(K, H, W) bool ground-truth regions and their (K,) uint8 pixel values; K may be 0."""
        bits = self._span("images/masks", "images/mask_offsets", i)
        start, stop = self.array("images/mask_offsets")[i : i + 2]
        return unpack(bits, self.size_HW[1]), self.array("images/mask_values")[start:stop]

    def label(self, i: int) -> int:
        """0 normal, 1 anomalous."""
        return int(self.array("images/label")[i])

    def record(self, i: int) -> dict[str, Any]:
        """Name, digest and defect of an image."""
        return self._record("images", i)

    def image_digests(self) -> Iterator[str]:
        """The digest of every image row, recomputed from the decoded arrays."""
        for i in range(self.images):
            yield row_digest(
                canonical_json(self.record(i)),
                pixels=self._row("images/pixels", i),
                masks=self._span("images/masks", "images/mask_offsets", i),
                values=self._span("images/mask_values", "images/mask_offsets", i),
            )

    def sample_digests(self) -> Iterator[str]:
        """A test shard holds no samples."""
        return iter(())
