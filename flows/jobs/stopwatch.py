"""Measure the stages of a run, so that `anomalysmith plan` can estimate the next one.

Outcomes carry the seconds that their stages took in a worker. The first image of every worker also
pays for loading the models, whether ten images follow or ten thousand. It is therefore left out of
the mean, and what it took longer counts as the start of the run.
"""

import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.generation.plan import RunPlan
from pipeline.generation.timings import Timing, how_of, record, units_per_item


class Stopwatch:
    """Seconds per stage and item of one run with a number of workers."""

    def __init__(self, plan: RunPlan, workers: int) -> None:
        self.plan, self.workers = plan, workers
        self._seconds: dict[str, list[float]] = defaultdict(list)

    def add(self, seconds: Mapping[str, float]) -> None:
        """Seconds per stage of one image; zero where the stage came from the cache."""
        for stage, took in seconds.items():
            if took:
                self._seconds[stage].append(took)

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure a stage that runs once."""
        # No try: a stage that fails is not measured.
        started = time.perf_counter()
        yield
        self.add({stage: time.perf_counter() - started})

    def save(self) -> None:
        """Append the seconds per unit to the timings beside the cache."""
        # Only runs of the same kind of work are compared.
        how, units = how_of(self.plan), units_per_item(self.plan)
        timings, start = [], 0.0
        for stage, seconds in self._seconds.items():
            ordered = sorted(seconds)
            # Without the slowest image of each worker: those waited for the models.
            usual = statistics.fmean(ordered[: max(1, len(ordered) - self.workers)])
            if len(ordered) > self.workers:
                start = max(start, ordered[-1] - usual)  # all stages wait for the same models
            # A run without samples per image has no unit.
            per_item = max(1, units[stage])
            timings.append(Timing(stage, how, usual / per_item, len(ordered) * per_item))
        if self._seconds.keys() & {"analysis", "samples"}:
            timings.append(Timing("start", how, start, 1))
        record(self.plan.cache.root, timings)
