"""Generation of one category in this process: plan, calibrate, generate, publish, report.

The Prefect flow calls the same functions of the pipeline, so both give the same dataset digest.
Nothing heavy is imported before a pixel has to be computed: a run whose version is already
published takes a second.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs.example_scenes import ensure_rendered
from flows.jobs.progress import Watcher
from flows.jobs.stopwatch import Stopwatch
from pipeline.config.schema import CategorySettings
from pipeline.dataset.files import GALLERY
from pipeline.dataset.version import Version, find_by_plan
from pipeline.generation import plan as planning
from pipeline.generation.cache_keys import PlannedImage
from pipeline.generation.plan import RunPlan
from pipeline.kinds import is_control
from pipeline.utils.files import require_writable
from pipeline.utils.free_cpus import workers_for
from pipeline.utils.workers import Submit, worker_pool

if TYPE_CHECKING:
    from pipeline.generation.outcome import Outcome

    Work = Callable[[RunPlan, Sequence[PlannedImage]], list[Outcome]]

WAITING = "{name}: another run is publishing this category; waiting until it is done"


@dataclass(frozen=True, slots=True)
class GenerateReport:
    """The result of a run of one category.

    `rejected` counts attempts by rejection reason, `by_kind` accepted samples. `failures` are
    inputs that could not be used, with `name` and `error`.
    """

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
        """Number of accepted samples that are not controls."""
        controls = sum(n for kind, n in self.by_kind.items() if is_control(kind))
        return self.accepted - controls

    @property
    def gallery(self) -> Path | None:
        """The gallery page, where the version has one."""
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
    """Run one category up to its published version, or find the version that exists already.

    `limit` takes the first images by name; `workers` images are processed at once, by default as
    many as CPUs are free. The result does not depend on `workers`.
    """
    started, watcher = time.perf_counter(), watcher or Watcher()
    plan = make_plan(settings, limit, watcher)
    # Served at once where the same plan was published before.
    version = find_by_plan(settings.store, settings.name, plan.digest)
    cached = version is not None
    if version is None:
        # Before hours of work, not after them.
        require_writable(settings.store / settings.name, by_libraries=True)
        # Without an image to process there is nothing to spread.
        if workers is None and plan.missing():
            workers = workers_for(watcher.say, "--workers N")
        watch = Stopwatch(plan, workers or 1)
        wait = f"waiting: `gc` is cleaning {settings.store}"
        with plan.cache.in_use(lambda: watcher.say(wait)):
            # Everything into the cache first, then all of it into a version.
            failures = generate_missing(plan, watch, watcher)
            version = publish(plan, failures, watcher, watch)
            watch.save()
    return report_of(version, time.perf_counter() - started, cached)


def make_plan(settings: CategorySettings, limit: int | None, watcher: Watcher) -> RunPlan:
    """Plan a run, after rendering the example scenes that it reads, if any."""
    rendered = ensure_rendered(settings)
    if rendered:
        watcher.say(f"{settings.name}: rendered {rendered} example scenes into {settings.root}")
    plan = planning.plan(settings, limit)
    for note in plan.notes:
        watcher.say(f"{settings.name}: {note}")
    watcher.inputs_skipped(plan.failures)
    return plan


def generate_missing(plan: RunPlan, watch: Stopwatch, watcher: Watcher) -> list[dict[str, str]]:
    """Generate the samples of every image that the cache lacks; the inputs that failed, by name.

    First the normals for the calibration are analysed, then the gate is calibrated while several
    workers analyse the other images, then samples are generated: no image waits for another one.
    """
    from pipeline.generation.analysis import analyse_batch, images_to_analyse, models_for
    from pipeline.generation.outcome import Ledger

    # Images that an interrupted run has finished are in the cache.
    missing = plan.missing()
    if not missing:
        return []
    name, normals = plan.settings.name, images_to_analyse(plan)
    # Loaded and imported before the workers start: forks share it, and no thread imports anything.
    models_for(plan)
    from pipeline.generation.calibrate import calibrate
    from pipeline.generation.sampler import generate_batch

    def alone(work: "Work") -> Callable[[PlannedImage], "Outcome"]:
        return lambda image: work(plan, [image])[0]

    # The same workers for all stages: they keep what they have loaded.
    calls = {"analyse": alone(analyse_batch), "generate": alone(generate_batch)}
    with worker_pool(watch.workers, calls) as submit:
        analysed = _spread(submit, "analyse", normals)
        # Queued behind the normals, so that no worker is idle while the gate is calibrated here.
        others = others_to_analyse(missing, normals, watch.workers)
        meanwhile = _spread(submit, "analyse", others)
        if normals:
            watcher.calibration_started(name, len(normals))
            for done, outcome in enumerate(analysed, 1):
                # Failures are not counted here: the image fails again below.
                watch.add(outcome.seconds)
                watcher.calibration_progress(done)
            watcher.stage_finished()
        # Measured only where it is computed, not where it is read from the cache.
        with watch.time("normality") if normals else nullcontext():
            calibrate(plan)
        # The bar starts with the images that the cache has.
        ledger = Ledger(images=len(plan.images) - len(missing))
        ledger.cached = ledger.images
        watcher.generation_started(name, len(plan.images), ledger)
        try:
            made = _spread(submit, "generate", missing)
            # These fail again below, too.
            for outcome in meanwhile:
                watch.add(outcome.seconds)
            for outcome in made:
                # Report failures as they come in, not at the end.
                before = len(ledger.failures)
                ledger.add(outcome)
                watch.add(outcome.seconds)
                watcher.inputs_skipped(ledger.failures[before:])
                watcher.image_done(ledger)
        finally:
            watcher.stage_finished()
    # Workers finish in any order, but the list of failures is part of the published version.
    return sorted(ledger.failures, key=lambda failure: failure["name"])


def others_to_analyse(
    missing: Sequence[PlannedImage], normals: Sequence[PlannedImage], workers: int
) -> list[PlannedImage]:
    """The images beside `normals` that workers analyse while the gate is calibrated.

    None without a calibration, and none for one worker: the calibration is its work.
    """
    if not normals or workers < 2:
        return []
    known = {image.name for image in normals}
    return [image for image in missing if image.name not in known]


def _spread(submit: Submit, call: str, images: Sequence[PlannedImage]) -> Iterator["Outcome"]:
    """Outcomes of a call for each image, in order of completion.

    All images are submitted at once, each as a task of its own, so that a slow one keeps one worker
    only.
    """
    futures = [submit(call, image) for image in images]
    return (done.result() for done in as_completed(futures))


def publish(
    plan: RunPlan, failures: list[dict[str, str]], watcher: Watcher, watch: Stopwatch
) -> Version:
    """Pack what the cache has for the plan into a dataset version."""
    from pipeline.generation.pack import pack

    name = plan.settings.name
    watcher.packing_started(name, len(plan.images))
    try:
        with watch.time("version"):
            waiting = partial(watcher.say, WAITING.format(name=name))
            return pack(plan, failures, watcher.packing_progress, waiting, watch.workers)
    finally:
        watcher.stage_finished()


def report_of(version: Version, seconds: float, cached: bool) -> GenerateReport:
    """The report of a published version, from its index alone."""
    # The index has all counts, so a run served from the cache opens no shard.
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
