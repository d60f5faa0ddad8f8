"""Arrays that were made lately, as many as fit into a few megabytes.

One object is edited many times, and its hole is the same each time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Bytes that are kept: all holes of an image of 256 px, the last ones of a large image.
MOST = 1 << 24
Arrays = tuple[np.ndarray, ...]


@dataclass(slots=True, eq=False)
class Recent:
    """The last arrays by key, `most` bytes at most."""

    most: int = MOST
    _kept: dict[tuple[Any, ...], Arrays] = field(default_factory=dict)

    def __call__(self, make: Callable[[], Arrays], *key: Any) -> Arrays:
        """The arrays of `make()`, made again where they are no longer kept; do not modify them."""
        # What is asked for again is the last one from then on.
        found = self._kept.pop(key, None)
        found = make() if found is None else found
        self._kept[key] = found
        while sum(array.nbytes for arrays in self._kept.values() for array in arrays) > self.most:
            del self._kept[next(iter(self._kept))]
        return found
