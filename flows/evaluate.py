"""The Prefect flow `evaluate-detectors`: every trained detector on its category's real test split.

An evaluation is one task around the function that `anomalysmith evaluate` calls. It evaluates what
`train-detectors` wrote for the version that the manifest leads to (else for the newest), and writes
its report into the folder of the checkpoint. An existing report is reused.
"""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger

from flows.jobs.category_options import Choices, settings_of
from flows.jobs.evaluate import REPORT, EvaluateJob, checkpoints_in, evaluate_once
from flows.jobs.train import home_of, planned_version
from flows.orchestration import forks as _forks  # noqa: F401  forked children leave Prefect to their parent
from flows.orchestration.artifacts import Row, all_or_raise, row_of, store_evaluation_page
from flows.orchestration.tasks import RunLog, retrying_task
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError


@retrying_task(name="evaluate-detector", task_run_name="evaluate-{job.checkpoint.name}")
def evaluate_detector(job: EvaluateJob) -> Row:
    """Evaluate one checkpoint on one test split, or read its existing report."""
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
    """Evaluate the checkpoints of `train-detectors` for one category of the manifest, or for each.

    The parameters have the meaning of the options of `anomalysmith evaluate`. `detectors` are by
    default all that were trained; `out` is where `train-detectors` wrote them. A pair of category
    and detector that fails is recorded, the others go on, and the run fails at its end.
    """
    # The same choice of categories as in the other flows.
    choices = Choices(
        manifest=Path(manifest) if manifest else None,
        categories=(category,) if category else (),
        store=Path(store) if store else None,
    )
    rows: list[Row] = []
    for settings in settings_of(choices):
        home = Path(out) if out else home_of(settings.store)
        rows += _one_category(settings, home, detectors, (device, precision, batch_size))
    return all_or_raise(rows)


def _one_category(
    settings: CategorySettings,
    home: Path,
    detectors: list[str] | None,
    how: tuple[str, str, int],
) -> list[Row]:
    """Evaluate the checkpoints of one category, one after another."""
    device, precision, batch_size = how
    rows: list[Row] = []
    try:
        # The reason for the choice is logged, as a newer version may exist.
        version, why = planned_version(settings)
        get_run_logger().info("%s: %s", settings.name, why)
        found = checkpoints_in(home, version, detectors)
    except AnomalysmithError as error:
        found = []
        # No version or no checkpoint: one failed row stands for all detectors of the category.
        rows.append({"category": settings.name, "detector": "any", "error": str(error)})
    # One after another: a GPU is for one detector at a time.
    for checkpoint in found:
        job = EvaluateJob(
            checkpoint=checkpoint, version=version.dir, out=checkpoint / REPORT, device=device,
            precision=precision, batch_size=batch_size,
        )  # fmt: skip
        # A state instead of an exception: one failed pair does not end the run.
        state = evaluate_detector(job, return_state=True)
        rows.append(row_of(settings.name, checkpoint.name, state))
        get_run_logger().info("%s, %s: %s", settings.name, checkpoint.name, state.name)
    store_evaluation_page(settings.name, rows)
    return rows
