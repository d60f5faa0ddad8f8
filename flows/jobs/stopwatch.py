"""What a run notes about its own speed, so that `anomalysmith plan` can estimate the next one.

Outcomes carry the seconds that their stages took in a worker. The first image of every worker pays
for loading the models, which a run of ten images and one of ten thousand do alike; it is taken out
of the mean and counted as the start of the run.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.generation.plan import RunPlan
from pipeline.generation.timings import Timing, how_of, record

if TYPE_CHECKING:
    from pipeline.generation.outcome import Outcome


class Stopwatch:
    """Seconds per stage of one run of a plan with so many workers."""

    def __init__(self, plan: RunPlan, workers: int) -> None:
        self.plan, self.workers = plan, workers
        self._analysis: list[float] = []
        self._samples: list[float] = []
        self._stages: dict[str, float] = {}

    def analysed(self, outcome: "Outcome | Mapping[str, Any]") -> None:
        """Count what an image's analysis took; nothing when it came from the cache."""
        self._add(self._analysis, outcome, "analysis_seconds")

    def forged(self, outcome: "Outcome | Mapping[str, Any]") -> None:
        """Count what an image's stages took."""
        self.analysed(outcome)
        self._add(self._samples, outcome, "samples_seconds")

    @contextmanager
    def stage(self, name: str, counts: bool = True) -> Iterator[None]:
        """Time a stage that runs once."""
        started = time.perf_counter()
        yield
        if counts:
            self._stages[name] = time.perf_counter() - started

    def note(self) -> None:
        """Leave the seconds per unit beside the cache."""
        plan, timings = self.plan, []
        how, edits = how_of(plan), plan.settings.edits
        wanted = max(1, edits.per_image + edits.controls_per_image)
        start = 0.0
        for stage, seconds, unit in (
            ("analysis", self._analysis, 1),
            ("samples", self._samples, wanted),
        ):
            if not seconds:
                continue
            usual, extra = _usual(seconds, self.workers)
            start = max(start, extra)  # both wait for the same models
            timings.append(Timing(stage, how, usual / unit, len(seconds) * unit))
        if timings:
            timings.append(Timing("start", how, start, 1))
        for stage, took in self._stages.items():
            units = len(plan.images) + len(plan.test) if stage == "version" else 1
            timings.append(Timing(stage, how, took / units, units))
        record(plan.cache.root, timings)

    @staticmethod
    def _add(to: list[float], outcome: "Outcome | Mapping[str, Any]", key: str) -> None:
        mapping = isinstance(outcome, Mapping)
        found = outcome[key] if mapping else getattr(outcome, key)  # type: ignore[index]
        if found:
            to.append(float(found))


def _usual(seconds: list[float], workers: int) -> tuple[float, float]:
    """The mean without the slowest image of each worker, and how much longer those took."""
    ordered = sorted(seconds)
    rest = ordered[: max(1, len(ordered) - workers)]
    usual = sum(rest) / len(rest)
    return usual, max(0.0, ordered[-1] - usual) if len(ordered) > workers else 0.0
