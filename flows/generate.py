"""The Prefect flow `generate-anomalies`: batches of images as tasks, then pack, verify, report.

Tasks are one line around plain functions and pass paths, counts and digests, never arrays. What
Prefect knows is only the order of work: results live in the content-addressed stage cache beside
the dataset versions, so a flow run that is started again goes on where the last one stopped, and
the digest equals that of `anomalysmith generate`.
"""

from flows.settings import available_cpus  # isort: skip  first: it switches telemetry off

import time
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.task_runners import ThreadPoolTaskRunner

from flows import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.choices import Choices, settings_of
from flows.local import WAITING, GenerateReport, report_of, settle
from flows.progress import Watcher
from flows.summary import leave_artifact
from flows.tasks import patient_task, plain_task
from pipeline.cache import CACHE, StageCache
from pipeline.errors import IntegrityError
from pipeline.manifest import CategorySettings
from pipeline.planning import load_plan
from pipeline.versions import Version, find_by_plan, open_version


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


@patient_task(name="forge-batch", task_run_name="forge-{start}-{stop}")
def forge_batch(plan: Path, start: int, stop: int) -> dict[str, Any]:
    """Forge the images `start` to `stop` of a plan into the cache; counts and failures."""
    from pipeline import stages

    settled, ledger = load_plan(plan), stages.Ledger()
    for outcome in stages.forge_batch(settled, settled.images[start:stop]):
        ledger.add(outcome)
    return {
        "images": ledger.images,
        "cached": ledger.cached,
        "accepted": ledger.accepted,
        "rejected": ledger.rejected,
        "failures": ledger.failures,
    }


@patient_task(name="pack-version")
def pack_version(plan: Path, failures: list[dict[str, str]]) -> Path:
    """Publish what the cache holds of a plan: all of it or nothing."""
    from pipeline.stages import pack

    settled, log = load_plan(plan), get_run_logger()
    said = WAITING.format(name=settled.settings.name)
    return pack(settled, failures, waiting=lambda: log.info(said)).dir


@plain_task(name="verify-version")
def verify_version(folder: Path) -> str:
    """Check every byte of the published version; its digest."""
    from pipeline.verify import verify

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
) -> list[dict[str, Any]]:
    """Generate one category of the manifest, or all of them; one report per category.

    The parameters mean what the options of `anomalysmith generate` mean. `batch_size` images make
    one task; neither it nor `workers` changes the result.
    """
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        source=source,
        store=Path(store) if store else None,
        preset=preset,
        per_image=per_image,
        seed=seed,
    )
    reports = []
    pool: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=workers or available_cpus())
    with pool as runner:
        for settings in settings_of(choices):
            reports.append(_one_category(settings, limit, batch_size, runner).to_json())
    return reports


def _one_category(
    settings: CategorySettings, limit: int | None, batch_size: int, runner: Any
) -> GenerateReport:
    started, log = time.perf_counter(), get_run_logger()
    with StageCache(settings.store / CACHE).in_use():  # from the saved plan on
        version, cached = _made(settings, limit, batch_size, runner)
    if verify_version(version.dir) != version.digest:
        raise IntegrityError(f"{version.dir} changed while it was being checked")
    report = report_of(version, time.perf_counter() - started, cached)
    leave_artifact(report)
    log.info("%s: %d samples, %s", report.category, report.accepted, report.version_dir)
    return report


def _made(
    settings: CategorySettings, limit: int | None, batch_size: int, runner: Any
) -> tuple[Version, bool]:
    """The version of one category, and whether it was there before."""
    plan_path = settle_plan(settings, limit)
    settled = load_plan(plan_path)
    version = find_by_plan(settled.settings.store, settled.settings.name, settled.digest)
    cached = version is not None
    if version is None:
        missing = {image.name for image in settled.missing()}
        starts = [
            start
            for start in range(0, len(settled.images), batch_size)
            if any(i.name in missing for i in settled.images[start : start + batch_size])
        ]
        counts = len(settled.images), len(missing)
        get_run_logger().info("%s: %d images, %d to forge", settings.name, *counts)
        batches = [
            runner.submit(
                forge_batch,
                {
                    "plan": plan_path,
                    "start": start,
                    "stop": min(start + batch_size, len(settled.images)),
                },
            )
            for start in starts
        ]
        failures = [failure for batch in batches for failure in batch.result()["failures"]]
        failures.sort(key=lambda failure: failure["name"])
        version = open_version(pack_version(plan_path, failures))
    return version, cached
