"""The Prefect flow `generate-anomalies`: batches of images as tasks, then pack, verify, report.

    plan ─▶ analyse normals for the calibration ─▶ calibrate the gate ─▶ generate ─▶ pack ─▶ verify

Tasks are one line around plain functions and pass paths, counts and digests, never arrays. Prefect
only orders the work: results live in the content-addressed stage cache beside the dataset versions.
A flow run that is started again therefore continues where the last one stopped, and the digest
equals that of `anomalysmith generate`.
"""

from flows import environment as _quiet  # noqa: F401  isort: skip  first: telemetry off

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.exceptions import CancelledRun

from flows.jobs.category_options import Choices, settings_of
from flows.jobs.generate import WAITING, GenerateReport, make_plan, others_to_analyse, report_of
from flows.jobs.progress import Watcher
from flows.jobs.stopwatch import Stopwatch
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import store_report
from flows.orchestration.runners import Pool, RunnerName, chosen, task_runner
from flows.orchestration.tasks import retrying_task
from flows.orchestration.worker_check import require_alike, software_here
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import find_by_plan, open_version
from pipeline.errors import AnomalysmithError, IntegrityError
from pipeline.generation import sampler
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.outcome import Ledger
from pipeline.generation.plan import RunPlan, load_plan
from pipeline.utils.free_cpus import usable_cpus, workers_for
from pipeline.utils.repeated import repeated

# A batch takes at most what is left for each worker, divided by this: the last ones are single
# images, so that no worker waits long for the others.
PART = 2


class CategoriesFailed(AnomalysmithError):
    """Some categories failed and the others are published; one line per failed one."""

    def __init__(self, failed: Mapping[str, Exception], of: int) -> None:
        # Our messages stand on their own; of other errors the class is worth knowing.
        lines = [f"{len(failed)} of {of} categories failed"]
        for name, error in failed.items():
            ours = isinstance(error, AnomalysmithError)
            lines.append(f"{name}: {error if ours else f'{type(error).__name__}: {error}'}")
        super().__init__("\n".join(lines))


class FlowLog(Watcher):
    """Remarks go to the log of the flow run; Prefect itself shows the progress of tasks."""

    def say(self, text: str) -> None:
        get_run_logger().info(text)

    def inputs_skipped(self, failures: Sequence[Mapping[str, str]]) -> None:
        for line in repeated((failure["name"], failure["error"]) for failure in failures):
            get_run_logger().warning("skipped %s", line)


@retrying_task(name="make-plan", task_run_name="plan-{settings.name}")
def save_plan(settings: CategorySettings, limit: int | None) -> Path:
    """Plan one category; returns the path of the plan, which the other tasks read."""
    return make_plan(settings, limit, FlowLog()).save()


@retrying_task(name="analyse-batch", task_run_name="analyse-{numbers[0]}")
def analyse_batch(plan: Path, numbers: list[int], made_on: dict[str, str]) -> dict[str, Any]:
    """Foreground and proposals of some images of a plan, by their indices in it."""
    from pipeline.generation import analysis

    require_alike(made_on)
    loaded = load_plan(plan)
    outcomes = analysis.analyse_batch(loaded, [loaded.images[n] for n in numbers])
    return {"seconds": [outcome.seconds for outcome in outcomes]}


@retrying_task(name="calibrate-gate")
def calibrate_gate(plan: Path) -> None:
    """Calibrate the gate on the analysed normal images, once for all batches."""
    from pipeline.generation.calibrate import calibrate

    calibrate(load_plan(plan))


@retrying_task(name="generate-batch", task_run_name="generate-{numbers[0]}")
def generate_batch(plan: Path, numbers: list[int], made_on: dict[str, str]) -> dict[str, Any]:
    """Generate the samples of some images of a plan, by their indices in it, into the cache.

    Returns counts, failures and seconds per stage and image.
    """
    require_alike(made_on)
    loaded, ledger, seconds = load_plan(plan), Ledger(), []
    for outcome in sampler.generate_batch(loaded, [loaded.images[n] for n in numbers]):
        ledger.add(outcome)
        seconds.append(outcome.seconds)
    return {
        "images": ledger.images,
        "cached": ledger.cached,
        "accepted": ledger.accepted,
        "rejected": ledger.rejected,
        "failures": ledger.failures,
        "seconds": seconds,
    }


@retrying_task(name="pack-version")
def pack_version(plan: Path, failures: list[dict[str, str]], workers: int = 1) -> Path:
    """Publish what the cache has for a plan as one version; returns its folder."""
    from pipeline.generation.pack import pack

    loaded, log = load_plan(plan), get_run_logger()
    waiting = partial(log.info, WAITING.format(name=loaded.settings.name))
    return pack(loaded, failures, waiting=waiting, workers=workers).dir


@retrying_task(name="verify-version")
def verify_version(folder: Path) -> str:
    """Verify every byte of the published version; returns its digest."""
    from pipeline.dataset.verify import verify

    # IntegrityError, which is not retried.
    verify(folder).raise_if_bad()
    return open_version(folder).digest


@flow(name="generate-anomalies", persist_result=False, log_prints=False)
def generate_anomalies(
    category: str | None = None,
    manifest: str | None = None,
    source: str | None = None,
    all_normal: bool = False,
    store: str | None = None,
    preset: Literal["paper", "full"] | None = None,
    per_image: int | None = None,
    limit: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    batch_size: int = 8,
    runner: RunnerName | None = None,
    runner_address: str | None = None,
) -> list[dict[str, Any]]:
    """Generate one category of the manifest, or all of them; one report per category.

    A category that fails does not stop the others; the run fails at its end.

    The parameters have the meaning of the options of `anomalysmith generate`. At most `batch_size`
    images form one task, fewer where workers would wait for each other at the end. `runner` is
    where tasks run, by default what ANOMALYSMITH_RUNNER names, else `threads`; `runner_address` is
    a running Dask scheduler or Ray cluster. Neither these nor `workers` change the result.
    """
    # Arguments are checked before anything starts.
    where = chosen(runner, runner_address)
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        source=source,
        all_normal=all_normal,
        publishes=True,
        store=Path(store) if store else None,
        preset=preset,
        per_image=per_image,
        seed=seed,
    )
    # On a cluster of its own the number only bounds the size of batches.
    count = workers or (
        usable_cpus() if where[1] else workers_for(get_run_logger().info, "the parameter workers")
    )
    # One runner for all categories: workers keep their models.
    with Pool(lambda: task_runner(where[0], count, where[1])) as pool:
        run = partial(_one_category, limit=limit, batch_size=batch_size, pool=pool, workers=count)
        return _each(settings_of(choices), run)


def _each(
    wanted: Sequence[CategorySettings], run: Callable[[CategorySettings], GenerateReport]
) -> list[dict[str, Any]]:
    """The reports of all categories. A single category raises its own error, several at the end."""
    # All errors are caught, bugs too: overnight, the other categories should still be generated.
    reports: list[dict[str, Any]] = []
    failed: dict[str, Exception] = {}
    for settings in wanted:
        try:
            reports.append(run(settings).to_json())
        # A cancelled run ends as a whole; it is no failure of this category.
        except CancelledRun:
            raise
        except Exception as error:
            if len(wanted) == 1:
                raise
            failed[settings.name] = error
            get_run_logger().error("%s failed, the others go on: %s", settings.name, error)
    if failed:
        raise CategoriesFailed(failed, len(wanted))
    return reports


def _one_category(
    settings: CategorySettings, *, limit: int | None, batch_size: int, pool: Pool, workers: int
) -> GenerateReport:
    """Run one category up to its verified version; leaves the report as an artifact."""
    started, log = time.perf_counter(), get_run_logger()
    # Before the plan is saved: to `gc`, a plan without a version is an orphan.
    with StageCache(settings.store / CACHE).in_use():
        plan_path = save_plan(settings, limit)
        plan = load_plan(plan_path)
        version = find_by_plan(plan.settings.store, plan.settings.name, plan.digest)
        # Served at once where the same plan was published before.
        cached = version is not None
        if version is None:
            watch = Stopwatch(plan, workers)
            failures = _generate_missing(plan, plan_path, batch_size, pool, watch)
            with watch.time("version"):
                version = open_version(pack_version(plan_path, failures, workers))
            watch.save()
    # The task reads the version from disk, as any user would.
    if verify_version(version.dir) != version.digest:
        raise IntegrityError(f"{version.dir} changed while it was being checked")
    report = report_of(version, time.perf_counter() - started, cached)
    store_report(report)
    log.info("%s: %d samples, %s", report.category, report.accepted, report.version_dir)
    return report


def _generate_missing(
    plan: RunPlan, path: Path, batch_size: int, pool: Pool, watch: Stopwatch
) -> list[dict[str, str]]:
    """Generate the samples of every image that the cache lacks; the inputs that failed, by name."""
    from pipeline.generation.analysis import images_to_analyse

    # Images that an interrupted run has finished are in the cache.
    missing = plan.missing()
    # Tasks receive indices into the plan, which every worker reads from the store.
    index = {image.name: number for number, image in enumerate(plan.images)}
    counts = plan.settings.name, len(plan.images), len(missing)
    get_run_logger().info("%s: %d images, %d to generate", *counts)
    if not missing:
        return []

    def batches(images: Any) -> list[dict[str, Any]]:
        numbers = sorted(index[image.name] for image in images)
        made_on = software_here()
        parts: list[dict[str, Any]] = []
        for size in batch_sizes(len(numbers), batch_size, watch.workers):
            parts.append({"plan": path, "numbers": numbers[:size], "made_on": made_on})
            del numbers[:size]
        return parts

    normals = images_to_analyse(plan)
    # The workers analyse these while this process calibrates the gate.
    others = others_to_analyse(missing, normals, watch.workers)
    for batch in pool.spread(analyse_batch, batches(normals), ahead=batches(others)):
        for seconds in batch["seconds"]:
            watch.add(seconds)
    # Measured only where it is computed, not where it is read from the cache.
    with watch.time("normality") if normals else nullcontext():
        calibrate_gate(path)
    failures: list[dict[str, str]] = []
    # Results come in the order in which batches are done.
    for batch in pool.spread(generate_batch, batches(missing)):
        # Failures of all batches become part of the published version.
        failures += batch["failures"]
        FlowLog().inputs_skipped(batch["failures"])
        for seconds in batch["seconds"]:
            watch.add(seconds)
    return sorted(failures, key=lambda failure: failure["name"])


def batch_sizes(images: int, most: int, workers: int) -> list[int]:
    """Sizes of the batches, at most `most`; they shrink towards the end of the stage."""
    sizes = []
    while images > 0:
        sizes.append(max(1, min(most, images // (PART * workers))))
        images -= sizes[-1]
    return sizes
