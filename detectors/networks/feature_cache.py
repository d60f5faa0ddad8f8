"""In-memory cache of a frozen network's features of the training normals, with a size limit.

Shapes: B batch; N training normals; C channels; h, w cells.
"""

import torch
from torch import Tensor


class FeatureCache:
    """Features by the images' `index`: all of them, or none if they exceed the limit.

    All or none, so that a batch is one lookup on the device and never waits for it. Features keep
    the device and dtype in which they were computed.
    """

    def __init__(self, gibibytes: float) -> None:
        self.bytes = int(gibibytes * 2**30)
        self.clear()

    def clear(self) -> None:
        """Drop all features and accept new ones."""
        # Open while features are added; closed after the table is built or the limit exceeded.
        self.open = self.bytes > 0
        self.used = 0
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.table_NChw: Tensor | None = None

    def add(self, index_B: Tensor | None, features_BChw: Tensor) -> None:
        """Store the features of one batch; exceeding the limit empties and closes the cache."""
        self.used += features_BChw.nbytes
        if not self.open or index_B is None or self.used > self.bytes:
            self.open, self.parts = False, []
            return
        self.parts.append((index_B, features_BChw))

    def close(self) -> None:
        """Build the lookup table from the stored batches."""
        if not self.open or not self.parts:
            return
        # `index` need not be contiguous; the table has a row for every number up to the largest.
        rows = 1 + max(int(index_B.max()) for index_B, _ in self.parts)
        first = self.parts[0][1]
        # Same memory layout as the features, so a lookup needs no conversion.
        self.table_NChw = first.new_empty((rows, *first.shape[1:])).to(
            memory_format=torch.channels_last
        )
        # Each part is released once it is copied, so the peak is little more than the table itself.
        while self.parts:
            index_B, features_BChw = self.parts.pop()
            self.table_NChw[index_B] = features_BChw
        self.open = False

    def get(self, index_B: Tensor | None) -> Tensor | None:
        """Cached features of training normals, or None if the caller must compute them."""
        if self.table_NChw is None or index_B is None:
            return None
        return self.table_NChw[index_B]
