"""How long stages took in earlier runs of a store: one small file, for estimates only.

A line of `<store>/.cache/timings.jsonl` is one stage of one run: on what kind of work, and seconds
per unit. Nothing depends on it; a line that does not read back is skipped, and the file may be
deleted at any time.
"""

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.utils.files import write_whole

if TYPE_CHECKING:
    from pipeline.generation.plan import RunPlan

TIMINGS = "timings.jsonl"
RUNS = 9
"""An estimate is the median of the last so many runs: an odd one does not move it."""
FULL, KEPT = 1 << 20, 2000
"""From this many bytes on, only the last so many lines are kept."""

UNITS: Mapping[str, str] = {
    "start": "run",
    "analysis": "image",
    "normality": "category",
    "samples": "wanted sample",
    "version": "stored image",
}
"""The stages in their order and what their seconds are counted per. `start` is loading models."""


@dataclass(frozen=True, slots=True)
class Timing:
    """One stage of one run: `seconds` of one worker per unit, over `units` units."""

    stage: str
    how: str
    seconds: float
    units: int


def how_of(plan: "RunPlan") -> str:
    """What decides a stage's speed beside the number of images: models, size, machine."""
    from pipeline.generation.cache_keys import device_class

    settings = plan.settings
    backends = [f"{stage}={name}" for stage, (name, _) in plan.files.used().items()]
    height, width = settings.image_size
    device = (settings.models.device, settings.models.precision, *device_class())
    return " ".join([*backends, f"{height}x{width}", f"{settings.proposals.points}pt", *device])


def record(cache: Path, timings: Iterable[Timing]) -> None:
    """Append the stages of a run to the file in a cache's folder, if the disk lets it."""
    lines = [json.dumps(asdict(t) | {"seconds": round(t.seconds, 5)}) for t in timings]
    with suppress(OSError):  # the version is published: a full disk must not fail its run now
        _append(cache / TIMINGS, "".join(f"{line}\n" for line in lines).encode())


def _append(path: Path, lines: bytes) -> None:
    # One write in append mode: lines of runs that end together do not mix.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, lines)
        full = os.fstat(handle).st_size > FULL
    finally:
        os.close(handle)
    if full:
        write_whole(path, b"".join(path.read_bytes().splitlines(keepends=True)[-KEPT:]))


def known(cache: Path, how: str) -> dict[str, tuple[float, int]]:
    """Per stage the median seconds per unit over the last runs of this kind, and how many."""
    found: dict[str, list[float]] = {}
    try:
        lines = (cache / TIMINGS).read_text(errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            timing = Timing(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if timing.how == how and timing.stage in UNITS:
            found.setdefault(timing.stage, []).append(float(timing.seconds))
    return {
        stage: (statistics.median(seconds[-RUNS:]), len(seconds[-RUNS:]))
        for stage, seconds in found.items()
    }
