"""The rows of the table of attempts until it is written, compressed by image.

A version has tens of attempts per image, and as dictionaries each takes a kilobyte of memory. As
compressed JSON those of an image take less than one; numbers come back exactly.
"""

import json
import zlib
from collections.abc import Iterator
from typing import Any


class AttemptRows:
    """Append-only rows that can be iterated more than once; a row read is a copy."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        # Number of the first row after each block.
        self._ends: list[int] = []
        # What became known later, by row number.
        self._later: dict[int, dict[str, Any]] = {}

    def extend(self, rows: list[dict[str, Any]]) -> None:
        """Append the rows of one image."""
        # Keys keep their order. The fastest level: it already finds what rows have in common.
        self._blocks.append(zlib.compress(json.dumps(rows).encode(), 1))
        self._ends.append(len(self) + len(rows))

    def update(self, index: int, values: dict[str, Any]) -> None:
        """Change some values of a row."""
        self._later[index] = self._later.get(index, {}) | values

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        index = 0
        for block in self._blocks:
            for row in json.loads(zlib.decompress(block)):
                yield row | self._later.get(index, {})
                index += 1
