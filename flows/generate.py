"""The Prefect flow `generate-anomalies`: batches of images as tasks, then pack, verify, report.

    settle ─▶ analyse the normals to study ─▶ study them ─▶ forge ─▶ pack ─▶ verify

Tasks are one line around plain functions and pass paths, counts and digests, never arrays. What
Prefect knows is only the order of work: results live in the content-addressed stage cache beside
the dataset versions, so a flow run that is started again goes on where the last one stopped, and
the digest equals that of `anomalysmith generate`.
"""

from flows.environment import available_cpus  # isort: skip  first: it switches telemetry off

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.exceptions import CancelledRun

from flows.jobs.category_options import Choices, settings_of
from flows.jobs.generate import WAITING, GenerateReport, report_of, settle
from flows.jobs.progress import Watcher
from flows.jobs.stopwatch import Stopwatch
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import leave_artifact
from flows.orchestration.runners import Pool, RunnerName, chosen, task_runner
from flows.orchestration.tasks import patient_task
from flows.orchestration.worker_check import require_alike, software_here
from pipeline.config.schema import CategorySettings
from pipeline.dataset.version import find_by_plan, open_version
from pipeline.errors import AnomalysmithError, IntegrityError
from pipeline.generation import sampler
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.outcome import Ledger
from pipeline.generation.plan import RunPlan, load_plan


class CategoriesFailed(AnomalysmithError):
    """Some categories failed and the others are published; one line per failed one."""

    def __init__(self, failed: Mapping[str, Exception], of: int) -> None:
        lines = [f"{len(failed)} of {of} categories failed"]
        for name, error in failed.items():
            ours = isinstance(error, AnomalysmithError)
            lines.append(f"{name}: {error if ours else f'{type(error).__name__}: {error}'}")
        super().__init__("\n".join(lines))


class Remarks(Watcher):
    """What a run has to say goes to the flow run's log."""

    def say(self, text: str) -> None:
        get_run_logger().info(text)

    def skipped(self, failure: Any) -> None:
        get_run_logger().warning("skipped %s: %s", failure["name"], failure["error"])


@patient_task(name="settle-plan", task_run_name="settle-{settings.name}")
def settle_plan(settings: CategorySettings, limit: int | None) -> Path:
    """List, digest and plan one category; the path of the plan that the other tasks read."""
    return settle(settings, limit, Remarks()).save()


@patient_task(name="analyse-batch", task_run_name="analyse-{numbers[0]}")
def analyse_batch(plan: Path, numbers: list[int], made_on: dict[str, str]) -> dict[str, Any]:
    """Foreground and proposals of some images of a plan, by their places in it."""
    from pipeline.generation import analysis

    require_alike(made_on)
    settled = load_plan(plan)
    outcomes = analysis.analyse_batch(settled, [settled.images[n] for n in numbers])
    return {"seconds": [_seconds(outcome) for outcome in outcomes]}


@patient_task(name="calibrate-gate")
def calibrate_gate(plan: Path) -> None:
    """Learn from the analysed images what is normal, once for all batches."""
    from pipeline.generation.calibrate import calibrate

    calibrate(load_plan(plan))


@patient_task(name="generate-batch", task_run_name="generate-{numbers[0]}")
def generate_batch(plan: Path, numbers: list[int], made_on: dict[str, str]) -> dict[str, Any]:
    """Generate samples of some images of a plan, by their places in it, into the cache; counts and
    failures."""

    require_alike(made_on)
    settled, ledger, seconds = load_plan(plan), Ledger(), []
    for outcome in sampler.generate_batch(settled, [settled.images[n] for n in numbers]):
        ledger.add(outcome)
        seconds.append(_seconds(outcome))
    return {
        "images": ledger.images,
        "cached": ledger.cached,
        "accepted": ledger.accepted,
        "rejected": ledger.rejected,
        "failures": ledger.failures,
        "seconds": seconds,
    }


def _seconds(outcome: Any) -> dict[str, float]:
    return {
        "analysis_seconds": outcome.analysis_seconds,
        "samples_seconds": outcome.samples_seconds,
    }


@patient_task(name="pack-version")
def pack_version(plan: Path, failures: list[dict[str, str]]) -> Path:
    """Publish what the cache holds of a plan: all of it or nothing."""
    from pipeline.generation.pack import pack

    settled, log = load_plan(plan), get_run_logger()
    said = WAITING.format(name=settled.settings.name)
    return pack(settled, failures, waiting=lambda: log.info(said)).dir


@patient_task(name="verify-version")
def verify_version(folder: Path) -> str:
    """Check every byte of the published version; its digest."""
    from pipeline.dataset.verify import verify

    verify(folder).raise_if_bad()
    return open_version(folder).digest


@flow(name="generate-anomalies", persist_result=False, log_prints=False)
def generate_anomalies(
    category: str | None = None,
    manifest: str | None = None,
    source: str | None = None,
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

    Of several, one that fails does not keep the others; the run fails at its end.

    The parameters mean what the options of `anomalysmith generate` mean. `batch_size` images make
    one task; `runner` says where tasks run (`threads` unless ANOMALYSMITH_RUNNER says otherwise),
    `runner_address` names a Dask scheduler or a Ray cluster that is up already. None of them, nor
    `workers`, changes the result.
    """
    where = chosen(runner, runner_address)
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        source=source,
        store=Path(store) if store else None,
        preset=preset,
        per_image=per_image,
        seed=seed,
    )
    with Pool(lambda: task_runner(where[0], workers, where[1])) as pool:
        hands = workers or available_cpus()
        made = partial(_one_category, limit=limit, batch_size=batch_size, pool=pool, workers=hands)
        return _each(settings_of(choices), made)


def _each(
    wanted: Sequence[CategorySettings], made: Callable[[CategorySettings], GenerateReport]
) -> list[dict[str, Any]]:
    """The reports of all; a single category's error as it is, those of several at the end."""
    reports: list[dict[str, Any]] = []
    failed: dict[str, Exception] = {}
    for settings in wanted:
        try:
            reports.append(made(settings).to_json())
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
    started, log = time.perf_counter(), get_run_logger()
    with StageCache(settings.store / CACHE).in_use():  # from the saved plan on
        plan_path = settle_plan(settings, limit)
        settled = load_plan(plan_path)
        version = find_by_plan(settled.settings.store, settled.settings.name, settled.digest)
        cached = version is not None
        if version is None:
            watch = Stopwatch(settled, workers)
            failures = _generated(settled, plan_path, batch_size, pool, watch)
            with watch.stage("version"):
                version = open_version(pack_version(plan_path, failures))
            watch.note()
    if verify_version(version.dir) != version.digest:
        raise IntegrityError(f"{version.dir} changed while it was being checked")
    report = report_of(version, time.perf_counter() - started, cached)
    leave_artifact(report)
    log.info("%s: %d samples, %s", report.category, report.accepted, report.version_dir)
    return report


def _generated(
    settled: RunPlan, plan: Path, batch_size: int, pool: Pool, watch: Stopwatch
) -> list[dict[str, str]]:
    """Bring every missing image into the cache; what failed, by name."""
    from pipeline.generation.calibrate import images_to_analyse

    missing = settled.missing()
    place = {image.name: number for number, image in enumerate(settled.images)}
    counts = settled.settings.name, len(settled.images), len(missing)
    get_run_logger().info("%s: %d images, %d to generate", *counts)
    if not missing:
        return []

    def batches(images: Any) -> list[dict[str, Any]]:
        numbers = sorted(place[image.name] for image in images)
        parts = [numbers[n : n + batch_size] for n in range(0, len(numbers), batch_size)]
        return [{"plan": plan, "numbers": part, "made_on": software_here()} for part in parts]

    normals = images_to_analyse(settled)
    for batch in pool.spread(analyse_batch, batches(normals)):
        for seconds in batch["seconds"]:
            watch.analysed(seconds)
    with watch.stage("normality", bool(normals)):
        calibrate_gate(plan)
    failures: list[dict[str, str]] = []
    for batch in pool.spread(generate_batch, batches(missing)):
        failures += batch["failures"]
        for failure in batch["failures"]:
            Remarks().skipped(failure)
        for seconds in batch["seconds"]:
            watch.forged(seconds)
    return sorted(failures, key=lambda failure: failure["name"])
