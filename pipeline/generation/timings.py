"""How long stages took in earlier runs of a store: one small file, for estimates only.

A line of `<store>/.cache/timings.jsonl` is one stage of one run: the kind of work, and seconds per
unit. No result depends on it. Lines that cannot be parsed are skipped, and the file may be deleted
at any time.
"""

import json
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.generation.cache_keys import device_class
from pipeline.generation.plan import RunPlan
from pipeline.utils.files import write_atomic

TIMINGS = "timings.jsonl"
# An estimate is the median of this many runs, so that one unusual run does not move it.
RUNS = 9
# A file above this many bytes is cut down to its last lines.
MAX_BYTES, KEPT_LINES = 1 << 20, 2000
# In order. `start` is the loading of the models.
STAGES = ("start", "analysis", "normality", "samples", "version")


@dataclass(frozen=True, slots=True)
class Timing:
    """One stage of one run: `seconds` of one worker per unit, over `units` units."""

    stage: str
    how: str
    seconds: float
    units: int


def how_of(plan: RunPlan) -> str:
    """What decides the speed of a stage besides the number of images: models, size, device."""
    settings = plan.settings
    backends = [f"{stage}={name}" for stage, (name, _) in plan.files.used().items()]
    height, width = settings.image_size
    device = (settings.models.device, settings.models.precision, *device_class())
    return " ".join([*backends, f"{height}x{width}", f"{settings.proposals.points}pt", *device])


def units_per_item(plan: RunPlan) -> dict[str, int]:
    """Units of one item of each stage: an image, or the whole run for what is done once."""
    edits = plan.settings.edits
    return {
        "start": 1,
        "analysis": 1,
        "normality": 1,
        "samples": edits.per_image + edits.controls_per_image,
        "version": len(plan.images) + len(plan.test),
    }


def record(cache: Path, timings: Iterable[Timing]) -> None:
    """Append the stages of a run to the file in the folder of a cache; disk errors are ignored."""
    lines = [json.dumps(asdict(t) | {"seconds": round(t.seconds, 5)}) + "\n" for t in timings]
    path = cache / TIMINGS
    with suppress(OSError):  # the version is already published: a full disk must not fail the run
        # One write in append mode, so that lines of runs that end together do not mix.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(handle, "".join(lines).encode())
        finally:
            os.close(handle)
        if path.stat().st_size > MAX_BYTES:
            write_atomic(path, b"".join(path.read_bytes().splitlines(True)[-KEPT_LINES:]))


def known(cache: Path, how: str) -> dict[str, tuple[float, int]]:
    """Per stage: the median seconds per unit over the last runs of this kind, and their number."""
    path, found = cache / TIMINGS, defaultdict(list)
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError, TypeError):  # damaged, or of another release
            timing = Timing(**json.loads(line))
            if timing.how == how and timing.stage in STAGES:
                found[timing.stage].append(float(timing.seconds))
    last = {stage: seconds[-RUNS:] for stage, seconds in found.items()}
    return {stage: (statistics.median(seconds), len(seconds)) for stage, seconds in last.items()}
