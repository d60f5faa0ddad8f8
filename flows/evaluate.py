"""The Prefect flow `evaluate-detectors`: every trained detector on its category's real test split.

An evaluation is one task around the function that `anomalysmith evaluate` calls. It takes what
`train-detectors` left for the version that the manifest leads to (else for the newest), and writes
its report into the folder of the checkpoint; a report that is there already is not made again.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.jobs.category_options import Choices, settings_of
from flows.jobs.evaluate import REPORT, EvaluateJob, checkpoints_in, evaluate_once
from flows.jobs.train import home_of, planned_version
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import Row, finished, leave_evaluation, row_of
from flows.orchestration.tasks import RunLog, patient_task
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError


@patient_task(name="evaluate-detector", task_run_name="evaluate-{job.checkpoint.name}")
def evaluate_detector(job: EvaluateJob) -> Row:
    """Score one test split with one checkpoint, or read what that came to before."""
    return evaluate_once(job, RunLog())


@flow(name="evaluate-detectors", persist_result=False, log_prints=False)
def evaluate_detectors(
    category: str | None = None,
    manifest: str | None = None,
    store: str | None = None,
    detectors: list[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 16,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """Evaluate what `train-detectors` made for one category of the manifest, or for each.

    The parameters mean what the options of `anomalysmith evaluate` mean; `detectors` are all that
    were trained when none is named, and `out` is where `train-detectors` put them. A pair that
    fails is recorded, the others go on, and the run fails at its end.
    """
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        store=Path(store) if store else None,
    )
    rows: list[Row] = []
    for settings in settings_of(choices):
        home = Path(out) if out else home_of(settings.store)
        rows += _one_category(settings, home, detectors, (device, precision, batch_size))
    return finished(rows)


def _one_category(
    settings: CategorySettings,
    home: Path,
    detectors: list[str] | None,
    how: tuple[str, str, int],
) -> list[Row]:
    device, precision, batch_size = how
    rows: list[Row] = []
    try:
        version, why = planned_version(settings)
        get_run_logger().info("%s: %s", settings.name, why)
        found = checkpoints_in(home, version, detectors)
    except AnomalysmithError as error:
        found = []
        rows.append({"category": settings.name, "detector": "any", "error": str(error)})
    for checkpoint in found:
        job = EvaluateJob(
            checkpoint=checkpoint, version=version.dir, out=checkpoint / REPORT, device=device,
            precision=precision, batch_size=batch_size,
        )  # fmt: skip
        state = evaluate_detector(job, return_state=True)
        rows.append(row_of(settings.name, checkpoint.name, state))
        get_run_logger().info("%s, %s: %s", settings.name, checkpoint.name, state.name)
    leave_evaluation(settings.name, rows)
    return rows
