"""The losses of a training, read from the device now and then, and watched for NaN; and their rate.

Asking a GPU for a number makes it wait, so terms are collected there and fetched together. On a CPU
nothing waits, and every step is looked at.
"""

import math
import time
from collections.abc import Mapping

import torch
from torch import Tensor

from detectors.training.progress import Watcher
from detectors.training.tensorboard import Board
from pipeline.errors import UserError

WINDOW = 50
"""Most steps between two points of the curves, and between two fetches from a GPU."""


class LossLog:
    """Collects the terms of steps; tells the watcher and the board their means."""

    def __init__(self, steps: int, on_gpu: bool, watcher: Watcher, board: Board) -> None:
        self.watcher, self.board = watcher, board
        self.window = max(1, min(WINDOW, steps // 100))
        self.every = self.window if on_gpu else 1
        self._pending: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._sums: dict[str, list[float]] = {}

    def add(self, done: int, terms: Mapping[str, Tensor]) -> None:
        """The terms of the step that made `done` steps."""
        values = torch.stack([value.detach().float() for value in terms.values()])
        self._pending.append((done, tuple(terms), values))
        if done % self.every == 0:
            self.fetch()

    def fetch(self) -> None:
        """Read what is pending; UserError names the first step whose loss is not finite."""
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        numbers = iter(torch.cat([values for *_, values in pending]).tolist())
        latest: dict[str, list[float]] = {}
        for done, names, _ in pending:
            terms = {name: next(numbers) for name in names}
            if not all(map(math.isfinite, terms.values())):
                text = ", ".join(f"{name} = {value:g}" for name, value in terms.items())
                raise UserError(
                    f"the loss of step {done} is not finite: {text}; the last saved state is kept; "
                    "try precision fp32, a lower rate, or look at the images"
                )
            for name, value in terms.items():
                latest.setdefault(name, []).append(value)
        self.watcher.step(pending[-1][0], _means(latest))
        for name, values in latest.items():
            self._sums.setdefault(name, []).extend(values)

    def due(self, done: int) -> bool:
        """True once per window."""
        return done % self.window == 0

    def plot(self, done: int, rates: Mapping[str, float]) -> None:
        """A point of every curve."""
        self.fetch()
        self.board.scalars(done, "loss", _means(self._sums))
        self.board.scalars(done, "rate", rates)
        self._sums = {}


class Clock:
    """Steps per second, without what happens between `tick` and `pause`."""

    def __init__(self) -> None:
        self.steps, self.spent, self.last = 0, 0.0, time.monotonic()

    def tick(self) -> None:
        """A step is over."""
        now = time.monotonic()
        self.steps, self.spent, self.last = self.steps + 1, self.spent + now - self.last, now

    def pause(self) -> None:
        """Something else is over."""
        self.last = time.monotonic()

    @property
    def rate(self) -> float:
        """0 when there was no step."""
        return self.steps / self.spent if self.spent else 0.0


def _means(values: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: sum(found) / len(found) for name, found in values.items() if found}
