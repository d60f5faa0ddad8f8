"""The Prefect flow `compare-detectors`: per category, train all detectors and recommend one.

Each training is one task, and so is the judgement of all of them; both call the functions of
`anomalysmith compare`. Checkpoints are those of `train-detectors`: what it has trained with the
same settings is reused, and the other way round.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger

from detectors.training.job import TrainJob
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.compare import CompareJob, Plan, compared, planned
from flows.jobs.train import planned_version, report_json, train
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import Row, all_or_raise, row_of, store_comparison_page
from flows.orchestration.tasks import RunLog, retrying_task
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError

# In the place of a detector's name in rows that stand for all of them.
ALL = "comparison"


@retrying_task(name="train-compared", task_run_name="train-{job.recipe.name}")
def train_compared(job: TrainJob) -> Row:
    """Train one of the detectors, continue its training, or reuse the finished one."""
    return report_json(job, train(job, RunLog()))


@retrying_task(name="judge-detectors", task_run_name="judge-{plan.version.category}")
def judge_detectors(job: CompareJob, plan: Plan, failed: Mapping[str, str]) -> Row:
    """Judge the trained detectors, recommend one, and write the page."""
    return compared(job, plan, failed, RunLog())


@flow(name="compare-detectors", persist_result=False, log_prints=False)
def compare_detectors(
    category: str | None = None,
    manifest: str | None = None,
    store: str | None = None,
    detectors: list[str] | None = None,
    profile: Literal["auto", "paper", "cpu", "tiny"] = "auto",
    false_alarms: float = 0.05,
    steps: int | None = None,
    size: int | None = None,
    settings: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 0,
    threads: int | None = None,
    reviews: str | None = None,
    test: bool = True,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Compare detectors on the version of one category of the manifest, or of each.

    It is the version that the manifest's settings generate, or the newest where that is missing.
    The parameters have the meaning of the options of `anomalysmith compare`: `settings` are its
    `--set`, `detectors` are by default all that fit the worker. Pages go to
    `<out>/<category>/<version>/compare.html`; by default `out` is `detectors` beside the store. A
    detector that cannot be trained is left out and named, the others are compared, and the run
    fails at its end.
    """
    # Empty texts count as unset.
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        store=Path(store) if store else None,
    )
    common = CompareJob(
        version=Path(), detectors=tuple(detectors or ()), profile=profile,
        false_alarms=false_alarms, steps=steps, size=size, changes=tuple(settings or ()),
        seed=seed, device=device, precision=precision, workers=workers, threads=threads,
        reviews=Path(reviews) if reviews else None, test=test,
    )  # fmt: skip
    rows: list[Row] = []
    for chosen in settings_of(choices):
        rows += _one_category(chosen, common, Path(out) if out else None)
    return all_or_raise(rows)


def _one_category(settings: CategorySettings, common: CompareJob, home: Path | None) -> list[Row]:
    """Train and judge on one category; the comparison is the last row."""
    name, rows = settings.name, []
    try:
        # The reason for the choice is logged, as a newer version may exist.
        version, why = planned_version(settings)
        get_run_logger().info("%s: %s", name, why)
        out = home / version.category / version.name if home else None
        job = replace(common, version=version.dir, out=out)
        plan = planned(job)
    except AnomalysmithError as error:
        rows = [{"category": name, "detector": ALL, "error": str(error)}]
        store_comparison_page(name, rows)
        return rows
    # One after another: a GPU, and the caches of a CPU, serve one training at a time.
    for one in plan.jobs:
        state = train_compared(one, return_state=True)
        rows.append(row_of(name, one.recipe.name, state))
        get_run_logger().info("%s, %s: %s", name, one.recipe.name, state.name)
    failed = {row["detector"]: row["error"] for row in rows if "error" in row}
    if len(failed) < len(plan.jobs):
        state = judge_detectors(job, plan, failed, return_state=True)
        rows.append(row_of(name, ALL, state))
    store_comparison_page(name, rows)
    return rows
