"""Medians of repeated calls, and a table of ratios against a named baseline of the same run."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured claim: the speed relative to a baseline, and the least ratio that is claimed."""

    what: str
    seconds: float
    baseline: str
    baseline_seconds: float
    claimed: float

    @property
    def ratio(self) -> float:
        # Above 1 is faster than the baseline.
        return self.baseline_seconds / self.seconds

    @property
    def holds(self) -> bool:
        return self.ratio >= self.claimed


def median_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of `call` in seconds, after one warm-up call."""
    # The first call loads libraries and warms caches.
    call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def print_table(title: str, rows: list[Row]) -> None:
    """A Markdown table with the machine it was measured on."""
    print(f"\n## {title}\n\n{platform.machine()}, {os.cpu_count()} cores, "
          f"Python {platform.python_version()}\n")  # fmt: skip
    # "times" is the ratio of both times.
    print("| what | s | baseline | s | times | claimed | holds |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.what} | {row.seconds:.3f} | {row.baseline} | {row.baseline_seconds:.3f} "
            f"| {row.ratio:.3g} | {row.claimed:g} | {'yes' if row.holds else 'NO'} |"
        )
