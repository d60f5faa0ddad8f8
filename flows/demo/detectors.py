"""The second half of `make demo`: detectors learn one product and meet its real test split."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.commands.console import complain
from flows.commands.progress_bars import StepBar, StoppableBar
from flows.jobs.evaluate import REPORT, EvaluateJob, evaluate_once
from flows.jobs.generate import GenerateReport
from flows.jobs.train import TrainJob, home_of, placed, train
from pipeline.dataset.version import open_version
from pipeline.errors import AnomalysmithError

DETECTORS = ("nearest", "laead")
"""One that only remembers good pictures, and the trained one that tells the demo's forged pictures
from good ones best; both take less than a minute."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """One detector of the demo: its checkpoint, the numbers of its report, the time it took."""

    detector: str
    checkpoint: Path
    numbers: dict[str, Any]
    seconds: float
    cached: bool


def learn(report: GenerateReport) -> tuple[list[Learnt], list[int]]:
    """Train and evaluate each detector of the demo on one product; what failed, as exit codes."""
    home = home_of(report.version_dir.parent.parent)
    done: list[Learnt] = []
    codes: list[int] = []
    for detector in DETECTORS:
        started = time.perf_counter()
        try:
            job = TrainJob(
                detector=detector,
                version=report.version_dir,
                out=Path(),
                profile="tiny",
            )
            with StoppableBar() as bar:
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
            complain(f"{report.category}, {detector}: {error}")
            codes.append(error.exit_code)
            continue
        seconds = time.perf_counter() - started
        done.append(Learnt(detector, checkpoint, numbers, seconds, numbers["cached"]))
    return done, codes


def product_of(reports: Sequence[GenerateReport]) -> GenerateReport | None:
    """The first product that has a real test split to be measured on."""
    for report in reports:
        if open_version(report.version_dir).index["counts"]["test"]["images"]:
            return report
    return None
