"""The Prefect flow `train-detectors`: every detector on every category, one training at a time.

A training is one task around the function that `anomalysmith train` calls. Checkpoints lie where
the dataset's digest and the recipe say, so a run that is started again goes on where the last one
stopped and is served what is finished.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from prefect import flow, get_run_logger

from flows.jobs.category_options import Choices, settings_of
from flows.jobs.train import TrainJob, home_of, placed, planned_version, report_json, train
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import Row, finished, leave_training, row_of
from flows.orchestration.tasks import RunLog, patient_task
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError


@patient_task(name="train-detector", task_run_name="train-{job.detector}")
def train_detector(job: TrainJob) -> Row:
    """Train one detector on one version, or go on with it, or find it done."""
    return report_json(job, train(job, RunLog()))


@flow(name="train-detectors", persist_result=False, log_prints=False)
def train_detectors(
    category: str | None = None,
    manifest: str | None = None,
    store: str | None = None,
    detectors: list[str] | None = None,
    profile: Literal["paper", "tiny"] = "paper",
    steps: int | None = None,
    size: int | None = None,
    settings: list[str] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "off",
    workers: int = 0,
    teacher: str | None = None,
    start: str | None = None,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Train detectors on the version of one category of the manifest, or of each.

    It is the version that the manifest's settings lead to, or the newest where that is not there.

    The parameters mean what the options of `anomalysmith train` mean: `settings` are its `--set`,
    `detectors` are all that there are when none is named. Checkpoints go to
    `<out>/<category>/<version>/<detector>-<digest8>`; `out` is `detectors` beside the store unless
    said otherwise. A pair that fails is recorded, the others go on, and the run fails at its end.
    """
    from detectors.registry import DETECTORS

    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        store=Path(store) if store else None,
    )
    wanted = [
        TrainJob(
            detector=name,
            version=Path(),
            out=Path(),
            profile=profile,
            steps=steps,
            size=size,
            changes=tuple(settings or ()),
            seed=seed,
            device=device,
            precision=precision,
            compile=compile,
            workers=workers,
            teacher=Path(teacher) if teacher else None,
            start=Path(start) if start else None,
        )
        for name in detectors or DETECTORS
    ]
    for job in wanted:
        job.recipe()  # a word that means nothing ends the run before anything starts
    rows: list[Row] = []
    for chosen in settings_of(choices):
        home = Path(out) if out else home_of(chosen.store)
        rows += _one_category(chosen, wanted, home)
    return finished(rows)


def _one_category(settings: CategorySettings, wanted: list[TrainJob], home: Path) -> list[Row]:
    """One after the other: a GPU, and the caches of a CPU, are for one training at a time."""
    rows: list[Row] = []
    try:
        version, why = planned_version(settings)
    except AnomalysmithError as error:
        rows = [
            {"category": settings.name, "detector": job.detector, "error": str(error)}
            for job in wanted
        ]
        leave_training(settings.name, rows)
        return rows
    get_run_logger().info("%s: %s", settings.name, why)
    for job in wanted:
        try:
            ready = placed(replace(job, version=version.dir), home)
        except AnomalysmithError as error:
            rows.append({"category": settings.name, "detector": job.detector, "error": str(error)})
            continue
        state = train_detector(ready, return_state=True)
        rows.append(row_of(settings.name, job.detector, state))
        get_run_logger().info("%s, %s: %s", settings.name, job.detector, state.name)
    leave_training(settings.name, rows)
    return rows
