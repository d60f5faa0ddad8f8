"""The Prefect flow `train-detectors`: every detector on every category, one training at a time.

A training is one task around the function that `anomalysmith train` calls. The folder of a
checkpoint follows from the dataset's digest and the recipe, so a run that is started again
continues where the last one stopped and reuses what is finished.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger

from detectors.training.job import TrainJob
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.train import home_of, job_of_some, placed, planned_version, report_json, train
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import Row, all_or_raise, row_of, store_training_page
from flows.orchestration.tasks import RunLog, retrying_task
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError


@retrying_task(name="train-detector", task_run_name="train-{job.recipe.name}")
def train_detector(job: TrainJob) -> Row:
    """Train one detector on one version, continue its training, or reuse the finished one."""
    return report_json(job, train(job, RunLog()))


@flow(name="train-detectors", persist_result=False, log_prints=False)
def train_detectors(
    category: str | None = None,
    manifest: str | None = None,
    store: str | None = None,
    detectors: list[str] | None = None,
    profile: Literal["auto", "paper", "cpu", "tiny"] = "auto",
    steps: int | None = None,
    size: int | None = None,
    settings: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "off",
    workers: int = 0,
    threads: int | None = None,
    beside: str | None = None,
    teacher: str | None = None,
    reviews: str | None = None,
    start: str | None = None,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Train detectors on the version of one category of the manifest, or of each.

    It is the version that the manifest's settings generate, or the newest where that is missing.

    The parameters have the meaning of the options of `anomalysmith train`: `settings` are its
    `--set`, `detectors` are all known ones by default. Checkpoints go to
    `<out>/<category>/<version>/<detector>-<digest8>`; by default `out` is `detectors` beside the
    store. A pair that fails is recorded, the others continue, and the run fails at its end.
    """
    # Must stay the first statement: it holds the parameters and nothing else. Prefect reads their
    # names from the signature; from here on they travel as one mapping.
    parameters = locals()
    from detectors.registry import DETECTORS

    # Empty texts count as unset.
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        store=Path(store) if store else None,
    )
    # A wrong detector or setting ends the run here, before anything is trained. Version and folder
    # differ by category and are filled in there.
    common = parameters | {
        "changes": settings or (),
        "teacher": Path(teacher) if teacher else None,
        "reviews": Path(reviews) if reviews else None,
        "start": Path(start) if start else None,
        "version": Path(),
        "out": Path(),
    }
    jobs = [job_of_some(common | {"detector": name}) for name in detectors or DETECTORS]
    rows: list[Row] = []
    for chosen in settings_of(choices):
        home = Path(out) if out else home_of(chosen.store)
        rows += _one_category(chosen, jobs, home)
    return all_or_raise(rows)


def _one_category(settings: CategorySettings, jobs: list[TrainJob], home: Path) -> list[Row]:
    """Train one after the other: a GPU, and the caches of a CPU, serve one training at a time."""
    rows: list[Row] = []
    try:
        # One error for all detectors of a category without a version.
        version, why = planned_version(settings)
    except AnomalysmithError as error:
        rows = [
            {"category": settings.name, "detector": job.recipe.name, "error": str(error)}
            for job in jobs
        ]
        store_training_page(settings.name, rows)
        return rows
    get_run_logger().info("%s: %s", settings.name, why)
    for job in jobs:
        name = job.recipe.name
        try:
            ready = placed(replace(job, version=version.dir), home)
        except AnomalysmithError as error:
            rows.append({"category": settings.name, "detector": name, "error": str(error)})
            continue
        # With the state instead of the result, a failed training does not raise here.
        state = train_detector(ready, return_state=True)
        rows.append(row_of(settings.name, name, state))
        get_run_logger().info("%s, %s: %s", settings.name, name, state.name)
    store_training_page(settings.name, rows)
    return rows
