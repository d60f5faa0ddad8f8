"""Rows of the generation benchmark; processor time of this process, and time inside methods."""

import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True, slots=True)
class Claim:
    """Our value, a baseline's of the same run, their ratio in the sense of the aim, and the aim.

    Without an aim a row is for information.
    """

    what: str
    ours: str
    baseline: str
    theirs: str
    ratio: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        low = float("-inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= self.ratio <= high

    def __str__(self) -> str:
        aim, verdict = "–", "–"
        if self.at_least is not None or self.at_most is not None:
            aim = f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"
            verdict = "yes" if self.holds else "NO"
        cells = (self.what, self.ours, self.baseline, self.theirs, f"{self.ratio:.3g}", aim)
        return f"| {' | '.join(cells)} | {verdict} |"


# Columns of the table, in the order of `Claim.__str__`.
HEAD = ("what", "ours", "baseline", "its value", "ratio", "aim", "holds")


def print_head() -> None:
    """The title, the machine and the head of the table; rows follow as they are measured."""
    # The processor's name exists on Linux only in this form.
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "CPU")
    print(f"\n## Generation\n\n{cpu}, {platform.machine()}, one thread; processor time\n")
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}", flush=True)


def left_out(what: str) -> None:
    """Report in the table what could not be measured here."""
    print(f"| left out: {what} |" + " |" * (len(HEAD) - 1), flush=True)


def seconds_of(call: Callable[[], object]) -> float:
    """Processor seconds of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turn(calls: Sequence[Callable[[], object]], repeats: int = 3) -> list[float]:
    """Median processor seconds of each call, taking turns after one warm-up round."""
    times: list[list[float]] = [[] for _ in calls]
    # The first round loads libraries and warms caches.
    for _ in range(1 + repeats):
        for call, found in zip(calls, times, strict=True):
            found.append(seconds_of(call))
    return [statistics.median(found[1:]) for found in times]


@contextmanager
def watched(*methods: tuple[Any, str]) -> Iterator[list[float]]:
    """Sum, in a list of one number, of the seconds spent in methods of classes; no call twice."""
    total, depth = [0.0], [0]

    def around(method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            started = time.process_time()
            try:
                return method(*args, **kwargs)
            finally:
                depth[0] -= 1
                # Only the outermost call counts: watched methods may call each other.
                total[0] += 0 if depth[0] else time.process_time() - started

        return timed

    with ExitStack() as stack:
        for owner, name in methods:
            stack.enter_context(patch.object(owner, name, around(getattr(owner, name))))
        yield total
