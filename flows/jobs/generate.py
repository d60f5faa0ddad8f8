"""Generation of one category in this process: settle, study, forge, publish, report.

The Prefect flow calls the same functions of the pipeline, so both give the same dataset digest.
Nothing heavy is imported before a pixel has to be made: a run whose version is published already
is over in a second.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.environment import available_cpus
from flows.jobs.example_scenes import ensure_rendered
from flows.jobs.progress import Watcher
from flows.jobs.stopwatch import Stopwatch
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import Version, find_by_plan
from pipeline.generation.cache_keys import PlannedImage
from pipeline.generation.plan import RunPlan, plan
from pipeline.kinds import is_control
from pipeline.utils.files import require_writable

if TYPE_CHECKING:
    from pipeline.generation.outcome import Outcome

GALLERY = "gallery/index.html"
WAITING = "{name}: another run is publishing this category; waiting until it is done"


@dataclass(frozen=True, slots=True)
class GenerateReport:
    """What a run of one category came to. `failures` are inputs that could not be used."""

    category: str
    version_dir: Path
    digest: str
    images: int
    accepted: int
    rejected: Mapping[str, int]
    by_kind: Mapping[str, int]
    attempted_by_kind: Mapping[str, int]
    seconds: float
    cached: bool
    failures: tuple[Mapping[str, str], ...] = field(default=())

    @property
    def anomalous(self) -> int:
        """Accepted samples that are no controls."""
        controls = sum(n for kind, n in self.by_kind.items() if is_control(kind))
        return self.accepted - controls

    @property
    def gallery(self) -> Path | None:
        """The page to look at, where the version has one."""
        page = self.version_dir / GALLERY
        return page if page.is_file() else None

    def to_json(self) -> dict[str, Any]:
        return {
            "category": self.category,
            "version_dir": str(self.version_dir),
            "digest": self.digest,
            "images": self.images,
            "accepted": self.accepted,
            "rejected": dict(self.rejected),
            "by_kind": dict(self.by_kind),
            "attempted_by_kind": dict(self.attempted_by_kind),
            "seconds": round(self.seconds, 3),
            "cached": self.cached,
            "failures": [dict(failure) for failure in self.failures],
            "gallery": str(self.gallery) if self.gallery else None,
        }


def generate(
    settings: CategorySettings,
    *,
    limit: int | None = None,
    workers: int | None = None,
    watcher: Watcher | None = None,
) -> GenerateReport:
    """Run one category to its published version. The result does not depend on `workers`."""
    started, watcher = time.perf_counter(), watcher or Watcher()
    settled = settle(settings, limit, watcher)
    version = find_by_plan(settings.store, settings.name, settled.digest)
    cached = version is not None
    if version is None:
        require_writable(settings.store / settings.name)
        watch = Stopwatch(settled, workers or available_cpus())
        with settled.cache.in_use(lambda: watcher.say(f"waiting: `gc` sweeps {settings.store}")):
            failures = forge(settled, watch, watcher)
            version = publish(settled, failures, watcher, watch)
            watch.note()
    return report_of(version, time.perf_counter() - started, cached)


def settle(settings: CategorySettings, limit: int | None, watcher: Watcher) -> RunPlan:
    """The plan of a run, after drawing the scenes that it reads, if any."""
    drawn = ensure_rendered(settings)
    if drawn:
        watcher.say(f"{settings.name}: drew {drawn} example scenes into {settings.root}")
    settled = plan(settings, limit)
    for note in settled.notes:
        watcher.say(f"{settings.name}: {note}")
    for failure in settled.failures:
        watcher.skipped(failure)
    return settled


def forge(settled: RunPlan, watch: Stopwatch, watcher: Watcher) -> list[dict[str, str]]:
    """Bring every missing image into the cache, several at a time; what failed.

    First the normals that show what is normal here, then what they show, then everything else:
    with that order no image waits for another one.
    """
    from pipeline.generation.analysis import analyse_batch
    from pipeline.generation.calibrate import calibrate, images_to_analyse
    from pipeline.generation.outcome import Ledger
    from pipeline.generation.sampler import generate_batch

    missing = settled.missing()
    if not missing:
        return []
    name, normals = settled.settings.name, images_to_analyse(settled)
    with _pool(watch.workers) as spread:
        if normals:
            watcher.calibrating(name, len(normals))
            for done, outcome in enumerate(spread(settled, analyse_batch, normals), 1):
                watch.analysed(outcome)  # one that failed fails below once more, and counts there
                watcher.calibrated(done)
            watcher.end()
        with watch.stage("normality", bool(normals)):
            calibrate(settled)
        ledger = Ledger(images=len(settled.images) - len(missing))
        ledger.cached = ledger.images
        watcher.begin(name, len(settled.images), ledger)
        try:
            for outcome in spread(settled, generate_batch, missing):
                before = len(ledger.failures)
                ledger.add(outcome)
                watch.forged(outcome)
                for failure in ledger.failures[before:]:
                    watcher.skipped(failure)
                watcher.image(ledger)
        finally:
            watcher.end()
    # Threads finish in any order; a version lists its failures in one.
    return sorted(ledger.failures, key=lambda failure: failure["name"])


@contextmanager
def _pool(workers: int) -> Iterator[Callable[..., Iterator["Outcome"]]]:
    """Threads that take images one by one; outcomes come as they are done."""
    pool = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="forge")

    def spread(
        settled: RunPlan,
        work: Callable[[RunPlan, Sequence[PlannedImage]], list["Outcome"]],
        images: Sequence[PlannedImage],
    ) -> Iterator["Outcome"]:
        for done in as_completed([pool.submit(work, settled, [image]) for image in images]):
            yield done.result()[0]

    try:
        yield spread
    except BaseException:  # Ctrl-C too: let the images in work finish, start no others
        pool.shutdown(wait=True, cancel_futures=True)
        raise
    pool.shutdown()


def publish(
    settled: RunPlan, failures: list[dict[str, str]], watcher: Watcher, watch: Stopwatch
) -> Version:
    """Pack what the cache holds of the plan."""
    from pipeline.generation.pack import pack

    name = settled.settings.name
    watcher.packing(name, len(settled.images))
    try:
        with watch.stage("version"):
            return pack(
                settled, failures, watcher.packed, lambda: watcher.say(WAITING.format(name=name))
            )
    finally:
        watcher.end()


def report_of(version: Version, seconds: float, cached: bool) -> GenerateReport:
    """The report of a published version, from its index alone."""
    counts = version.index["counts"]
    kinds = sorted(counts["by_kind"].items())
    return GenerateReport(
        category=version.category,
        version_dir=version.dir.resolve(),
        digest=version.digest,
        images=counts["images"],
        accepted=counts["accepted"],
        rejected=dict(sorted(counts["rejected"].items())),
        by_kind={kind: row.get("accepted", 0) for kind, row in kinds},
        attempted_by_kind={kind: row.get("attempted", 0) for kind, row in kinds},
        seconds=seconds,
        cached=cached,
        failures=tuple(version.index["failures"]),
    )
