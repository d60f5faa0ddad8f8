"""Medians of repeated calls, and a table of ratios against a named yardstick of the same run."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured claim: how many times the yardstick's speed, and the least that is claimed."""

    what: str
    seconds: float
    yardstick: str
    yardstick_seconds: float
    claimed: float

    @property
    def ratio(self) -> float:
        return self.yardstick_seconds / self.seconds

    @property
    def holds(self) -> bool:
        return self.ratio >= self.claimed


def median_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of `call`, after one call that is not counted."""
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
    print("| what | s | yardstick | s | times | claimed | holds |\n|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row.what} | {row.seconds:.3f} | {row.yardstick} | {row.yardstick_seconds:.3f} "
            f"| {row.ratio:.3g} | {row.claimed:g} | {'yes' if row.holds else 'NO'} |"
        )
