"""The rejected attempts that a version keeps, held small until its other shards are written.

Which of them are kept is known only after the last image. Whole images and masks would take five
bytes per pixel of each; here an edit is its window, and a mask its compressed bits.

Shapes: H, W image; h, w window of an edit; 3 colour (RGB, uint8).
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from pipeline.records import (
    Attempt,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    bounding_box,
)


@dataclass(frozen=True, slots=True)
class _Bits:
    """A bool array, compressed."""

    shape: tuple[int, ...]
    content: bytes

    @classmethod
    def of(cls, mask: np.ndarray) -> "_Bits":
        return cls(mask.shape, zlib.compress(np.packbits(mask).tobytes(), 1))

    def mask(self) -> np.ndarray:
        bits = np.frombuffer(zlib.decompress(self.content), np.uint8)
        count = int(np.prod(self.shape))
        return np.unpackbits(bits, count=count).reshape(self.shape).astype(np.bool_)


@dataclass(frozen=True, slots=True, eq=False)
class _Reject:
    """One kept attempt: its number in the table, and its sample as a window of the image."""

    index: int
    image: str
    attempt: Attempt
    sample: dict[str, Any]
    pixels_hw3: np.ndarray
    box_4: tuple[int, int, int, int]


class RejectPool:
    """The first rejects, at most `limit`, balanced over rejection reasons as they arrive."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[str, list[_Reject]] = defaultdict(list)
        # The images of the kept attempts: all of it but masks and samples, and the masks.
        self._images: dict[str, dict[str, Any]] = {}

    def offer(self, result: ImageResult, attempt: Attempt, index: int) -> None:
        """Keep an attempt (with its sample) when there is room, or when another reason has more
        than its share."""
        reason = attempt.verdict.reason
        if sum(map(len, self._kept.values())) >= self.limit:
            # Ties are broken by the reason's name, so equal runs keep equal rejects.
            largest = max(
                self._kept, key=lambda name: (len(self._kept[name]), name), default=reason
            )
            if len(self._kept[largest]) <= len(self._kept[reason]) + 1:
                return
            left = self._kept[largest].pop()
            if all(left.image != one.image for some in self._kept.values() for one in some):
                del self._images[left.image]
        assert attempt.sample is not None
        x0, y0, x1, y1 = box_4 = bounding_box(attempt.sample.change_HW)
        pixels_hw3 = attempt.sample.pixels_HW3[y0:y1, x0:x1].copy()
        sample = _packed(attempt.sample) | {"pixels_HW3": None}
        bare = replace(attempt, sample=None)
        self._kept[reason].append(_Reject(index, result.name, bare, sample, pixels_hw3, box_4))
        if result.name not in self._images:
            # The other attempts stay in the record, so the counts of the image remain right.
            self._images[result.name] = _packed(result) | {
                "attempts": tuple(replace(one, sample=None) for one in result.attempts),
                "foreground": _packed(result.foreground),
                "proposals": _packed(result.proposals),
            }

    def by_image(self) -> Iterator[tuple[ImageResult, list[int]]]:
        """Each image once with its kept attempts, in the order of generation; empties the pool."""
        images: dict[str, list[_Reject]] = defaultdict(list)
        for entry in sorted((e for some in self._kept.values() for e in some), key=_index):
            images[entry.image].append(entry)
        self._kept.clear()
        for name in list(images):
            entries, image = images.pop(name), _unpacked(self._images.pop(name))
            image["foreground"] = ForegroundMask(**_unpacked(image["foreground"]))
            image["proposals"] = ObjectProposals(**_unpacked(image["proposals"]))
            result = ImageResult(**image)
            kept = {_place(one.attempt): _whole(one, result.pixels_HW3) for one in entries}
            attempts = tuple(kept.get(_place(one), one) for one in result.attempts)
            yield replace(result, attempts=attempts), [one.index for one in entries]


def _index(reject: _Reject) -> int:
    return reject.index


def _place(attempt: Attempt) -> tuple[int, int]:
    return attempt.number, attempt.attempt


def _whole(reject: _Reject, source_HW3: np.ndarray) -> Attempt:
    """The attempt with its sample again: outside its window the sample is the source."""
    x0, y0, x1, y1 = reject.box_4
    pixels_HW3 = source_HW3.copy()
    pixels_HW3[y0:y1, x0:x1] = reject.pixels_hw3
    sample = Sample(**_unpacked(reject.sample) | {"pixels_HW3": pixels_HW3})
    return replace(reject.attempt, sample=sample)


def _packed(record: Any) -> dict[str, Any]:
    """The fields of a record, with its bool arrays as bits."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    return {
        name: _Bits.of(value) if isinstance(value, np.ndarray) and value.dtype == bool else value
        for name, value in values.items()
    }


def _unpacked(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.mask() if isinstance(value, _Bits) else value for name, value in values.items()
    }
