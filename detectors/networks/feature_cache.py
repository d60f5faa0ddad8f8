"""A frozen network's features of the training normals, which never change, kept within a bound."""

import torch
from torch import Tensor


class FeatureCache:
    """Features by the pictures' `index`: all of them, or none where they exceed the bound.

    All or none, because looking up a whole batch at once needs no question to the device. The
    features lie on the device and in the format they were computed in.
    """

    def __init__(self, gibibytes: float) -> None:
        self.bytes = int(gibibytes * 2**30)
        self.clear()

    def clear(self) -> None:
        """Forget everything and take in features again."""
        self.open = self.bytes > 0
        self.used = 0
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.table_NChw: Tensor | None = None

    def add(self, index_B: Tensor | None, features_BChw: Tensor) -> None:
        """Take in the features of one batch; more than the bound allows empties the cache."""
        self.used += features_BChw.nbytes
        if not self.open or index_B is None or self.used > self.bytes:
            self.open, self.parts = False, []
            return
        self.parts.append((index_B, features_BChw))

    def close(self) -> None:
        """Make the table; parts are let go of as they are copied."""
        if not self.open or not self.parts:
            return
        rows = 1 + max(int(index_B.max()) for index_B, _ in self.parts)
        first = self.parts[0][1]
        self.table_NChw = first.new_empty((rows, *first.shape[1:])).to(
            memory_format=torch.channels_last
        )
        while self.parts:
            index_B, features_BChw = self.parts.pop()
            self.table_NChw[index_B] = features_BChw
        self.open = False

    def get(self, index_B: Tensor | None) -> Tensor | None:
        """The features of a batch of training normals, or None when they are to be computed."""
        if self.table_NChw is None or index_B is None:
            return None
        return self.table_NChw[index_B]
