"""Losses of a training, read from the device in blocks, checked for NaN; and the rate of steps.

Reading a number from a GPU makes it wait, so terms are collected there and fetched together. On a
CPU nothing waits, and every step is checked at once.
"""

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.training.progress import Watcher
from detectors.training.tensorboard import Board
from pipeline.errors import UserError

# Most steps between two points of the curves, and between two fetches from a GPU: seldom enough to
# keep the GPU busy, often enough that a NaN is found within a second or two.
WINDOW = 50


class LossLog:
    """Collects the terms of steps; passes their means to the watcher and the board."""

    def __init__(self, steps: int, on_gpu: bool, watcher: Watcher, board: Board) -> None:
        self.watcher, self.board = watcher, board
        # Short runs still get about a hundred points per curve.
        self.window = max(1, min(WINDOW, steps // 100))
        self.every = self.window if on_gpu else 1
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._sums: dict[str, list[float]] = {}

    def add(self, done: int, terms: Mapping[str, Tensor]) -> None:
        """The terms of the step that completes `done` steps."""
        # One tensor per step keeps the number of transfers low.
        values = torch.stack([value.detach().float() for value in terms.values()])
        self._pending.append((done, tuple(terms), values))
        if done % self.every == 0:
            self.fetch()

    def fetch(self) -> None:
        """Read what is pending; UserError names the first step whose loss is not finite."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        # One transfer for all pending steps.
        numbers = iter(torch.cat([values for *_, values in pending]).tolist())
        latest: dict[str, list[float]] = {}
        # Names differ by step: detectors may train in stages.
        for done, names, _ in pending:
            terms = {name: next(numbers) for name in names}
            if not all(map(math.isfinite, terms.values())):
                text = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
                raise UserError(
                    f"the loss of step {done} is not finite: {text}; the last saved state is kept; "
                    "try precision fp32 or a lower learning rate, or check the images"
                )
            for name, value in terms.items():
                latest.setdefault(name, []).append(value)
        # The bar shows the means since the last fetch, the curves those of a window.
        self.watcher.step(pending[-1][0], _means(latest))
        for name, values in latest.items():
            self._sums.setdefault(name, []).extend(values)

    def due(self, done: int) -> bool:
        """True once per window."""
        return done % self.window == 0

    def plot(self, done: int, rates: Mapping[str, float]) -> None:
        """Add a point to every curve: the means since the last one, and the rates."""
        self.fetch()
        self.board.scalars(done, "loss", _means(self._sums))
        self.board.scalars(done, "rate", rates)
        self._sums = {}


class Clock:
    """Steps per second; the time between a `tick` and the next `pause` does not count."""

    def __init__(self) -> None:
        self.steps, self.spent, self.last = 0, 0.0, time.monotonic()

    def tick(self) -> None:
        """A step is complete."""
        now = time.monotonic()
        self.steps, self.spent, self.last = self.steps + 1, self.spent + now - self.last, now

    def pause(self) -> None:
        """Validation or saving is complete; the next step starts now."""
        self.last = time.monotonic()

    @property
    def rate(self) -> float:
        """Steps per second; 0 before the first step."""
        return self.steps / self.spent if self.spent else 0.0


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: sum(found) / len(found) for name, found in values.items() if found}
