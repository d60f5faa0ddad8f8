"""Counts of float32 values: an exact and compact record of millions of pixel scores.

Pixel metrics need only two numbers about the defect-free pixels: how many reach a threshold, and
how many exceed it. So equal values are merged into a table of distinct values and their counts. New
values collect in a buffer; when it is full, it is sorted and merged into the table. The buffer
grows with the table, so that the total work stays proportional to the number of pixels.

Memory: 5 bytes per *distinct* value (up to 8 when some value occurs very often), twice that for
a moment while merging, plus the buffer. A factor of two in magnitude (an octave) contains 2^23
float32 values, so 40 to 64 MiB per octave is the most for any number of images. Measured on smooth
random maps as large as MVTec LOCO's largest category (310 images, 527 million pixels, raw maps
2.1 GB), separate tables for good, logical and structural: 138 million distinct values; the process
held at most 1.4 GB while adding images, and 2.0 GB while evaluating 9 million region pixels, which
then take about 100 bytes each. The same images at 256 x 256 px have 20 million pixels: 0.2 GB.
"""

from collections.abc import Sequence

import numpy as np

# Smallest buffer of unsorted values: 16 MiB.
BUFFER = 1 << 22
# The buffer grows to an eighth of the table: merging costs about the size of the table, so every
# value is copied eight times or so, however large the table gets.
_GROWTH = 8


class ValueCounts:
    """A growing multiset of finite float32 values; -0.0 and 0.0 are one value."""

    def __init__(self, buffer: int = BUFFER) -> None:
        self.total = 0
        self._buffer = buffer
        self._waiting: list[np.ndarray] = []
        # Number of values in the buffer.
        self._waits = 0
        self._values = np.empty(0, np.float32)
        self._counts = np.empty(0, np.uint8)

    def add(self, values_V: np.ndarray) -> None:
        """Add the values of a float32 array of any shape; the array itself is copied."""
        self.total += values_V.size
        self._waiting.append(np.array(values_V, np.float32).ravel())
        self._waits += values_V.size
        # A merge costs about as much as the table is long.
        if self._waits >= max(self._buffer, len(self._values) // _GROWTH):
            self._merge()

    def reaching(self, thresholds_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(V,) int64 numbers of values >= each threshold, and > each threshold; exact."""
        self._merge()
        # The narrowest type that holds the total: the running sum is as long as the table.
        below_C = np.cumsum(self._counts, dtype=np.min_scalar_type(self.total))
        return tuple(  # type: ignore[return-value]
            self.total - _before(below_C, np.searchsorted(self._values, thresholds_V, side))
            for side in ("left", "right")
        )

    def _merge(self) -> None:
        """Sort the buffer and merge it into the table."""
        if not self._waits:
            return
        ordered = np.concatenate(self._waiting)
        self._waiting, self._waits = [], 0
        ordered.sort()
        # Run lengths of the sorted values are their counts.
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        values = ordered[starts]
        counts = np.diff(starts, append=len(ordered))
        # The peak of memory is here; temporaries are freed before the table is copied.
        del ordered, starts
        # The narrowest type in which no sum of an old and a new count can overflow.
        kind = np.min_scalar_type(int(self._counts.max(initial=0)) + int(counts.max()))
        self._counts, counts = self._counts.astype(kind, copy=False), counts.astype(kind)
        # Known values add to their counts, new ones are inserted in order.
        places = np.searchsorted(self._values, values)
        known = np.zeros(len(values), np.bool_)
        inside = places < len(self._values)
        known[inside] = self._values[places[inside]] == values[inside]
        self._counts[places[known]] += counts[known]
        # Both inserts copy the table; this is the cost of a merge.
        self._values = np.insert(self._values, places[~known], values[~known])
        self._counts = np.insert(self._counts, places[~known], counts[~known])


def _before(cumulated_C: np.ndarray, places_V: np.ndarray) -> np.ndarray:
    """(V,) int64 sums of the first `place` counts."""
    sums = np.zeros(len(places_V), np.int64)
    some = places_V > 0
    sums[some] = cumulated_C[places_V[some] - 1]
    return sums


def reaching(
    parts: Sequence[ValueCounts], thresholds_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`ValueCounts.reaching`, summed over several multisets."""
    at_V, above_V = np.zeros((2, len(thresholds_V)), np.int64)
    for part in parts:
        part_at_V, part_above_V = part.reaching(thresholds_V)
        at_V, above_V = at_V + part_at_V, above_V + part_above_V
    return at_V, above_V
