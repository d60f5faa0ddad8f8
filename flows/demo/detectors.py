"""The second half of `make demo`: train detectors on one product, evaluate on its real test."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.commands.console import print_error
from flows.commands.progress_bars import StepBar, StoppableBar
from flows.jobs.evaluate import REPORT, EvaluateJob, evaluate_once
from flows.jobs.generate import GenerateReport
from flows.jobs.train import home_of, job_of, placed, train
from pipeline.dataset.version import open_version
from pipeline.errors import AnomalysmithError

# One that only stores features of good images, and the trained one with the best AUROC on the
# demo's synthetic anomalies; both take less than a minute.
DETECTORS = ("nearest", "laead")


@dataclass(frozen=True, slots=True)
class Trained:
    """One detector of the demo: its checkpoint, the metrics of its report, the time it took."""

    detector: str
    checkpoint: Path
    numbers: dict[str, Any]
    seconds: float
    cached: bool


def train_detectors(report: GenerateReport) -> tuple[list[Trained], list[int]]:
    """Train and evaluate each detector of the demo on one product; failures as exit codes."""
    # Beside the store, where the Prefect flows look as well.
    home = home_of(report.version_dir.parent.parent)
    done: list[Trained] = []
    codes: list[int] = []
    for detector in DETECTORS:
        started = time.perf_counter()
        try:
            options = {"detector": detector, "profile": "tiny", "version": report.version_dir}
            # `placed` names the folder, which depends on the content of the version.
            job = job_of(options | {"out": Path()})
            with StoppableBar() as bar:
                # Ctrl-C waits for the end of a step.
                checkpoint = train(placed(job, home), bar).checkpoint
            numbers = evaluate_once(
                EvaluateJob(
                    checkpoint=checkpoint,
                    version=report.version_dir,
                    out=checkpoint / REPORT,
                ),
                StepBar("img"),
            )
        except AnomalysmithError as error:
            # The other detector is trained all the same.
            print_error(f"{report.category}, {detector}: {error}")
            codes.append(error.exit_code)
            continue
        seconds = time.perf_counter() - started
        done.append(Trained(detector, checkpoint, numbers, seconds, numbers["cached"]))
    return done, codes


def product_with_test(reports: Sequence[GenerateReport]) -> GenerateReport | None:
    """The first product that has a real test split."""
    # The index has the counts, so no shard is opened.
    for report in reports:
        if open_version(report.version_dir).index["counts"]["test"]["images"]:
            return report
    return None
