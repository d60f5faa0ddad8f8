"""The second half of `make demo`: compare detectors on one product, without one defective part."""

from collections.abc import Sequence
from typing import Any

from flows.commands.console import print_error, worst_code
from flows.commands.progress_bars import StepBar, StoppableBar
from flows.jobs.compare import CompareJob, compared, planned, train_all
from flows.jobs.generate import GenerateReport
from pipeline.dataset.version import open_version
from pipeline.errors import AnomalysmithError
from pipeline.models.weights import store as weights

# The product whose parts have fixed places: ten normals say most about such a one.
PRODUCT = "bottle"
# Those that need no training; each takes less than a minute.
DETECTORS = ("nearest", "laead")
# Their backbone, and the one that ships with the program.
BACKBONE, BUNDLED = "efficientnet-lite0", "bundled-teacher"


def compare_detectors(report: GenerateReport) -> tuple[dict[str, Any] | None, int]:
    """The comparison on one product as JSON, None when it failed, and an exit code."""
    changes: tuple[str, ...] = ()
    # A machine that reaches no package index has the bundled weights alone.
    if weights.state(BACKBONE) == "missing":
        changes = tuple(f"{name}.teacher={BUNDLED}" for name in DETECTORS)
    job = CompareJob(
        version=report.version_dir, detectors=DETECTORS, profile="cpu", changes=changes
    )
    try:
        plan = planned(job)
        with StoppableBar() as bar:
            # Ctrl-C waits for the end of a step.
            failed = train_all(plan, bar)
        content = compared(
            job, plan, {name: str(error) for name, error in failed.items()}, StepBar("det")
        )
    except AnomalysmithError as error:
        print_error(f"{report.category}: {error}")
        return None, error.exit_code
    # The others were compared all the same.
    return content, worst_code([error.exit_code for error in failed.values()])


def product_with_test(reports: Sequence[GenerateReport]) -> GenerateReport | None:
    """`PRODUCT`, or else the first one, among those that have a real test split."""
    # The index has the counts, so no shard is opened.
    tested = [
        report for report in reports
        if open_version(report.version_dir).index["counts"]["test"]["images"]
    ]  # fmt: skip
    preferred = [report for report in tested if report.category == PRODUCT]
    return next(iter(preferred + tested), None)
