"""`anomalysmith train`: one detector on one dataset version; it can be stopped and resumed."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from detectors.training.job import TrainJob
from flows.commands.console import (
    INTERRUPTED,
    Json,
    exit_with,
    print_error,
    print_note,
    print_result,
    stdout_to_stderr,
)
from pipeline.errors import AnomalysmithError

Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Threads of PyTorch.  [default: the CPUs that other programs leave free, or "
        "OMP_NUM_THREADS]",
    ),
]


def train_command(
    detector: Annotated[
        str,
        typer.Option(metavar="NAME", help="One of `anomalysmith detectors`.", show_default=False),
    ],
    version: Annotated[
        Path,
        typer.Option(
            metavar="VERSION_DIR", help="Dataset version to train on.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder of the checkpoint.", show_default=False),
    ],
    profile: Annotated[
        str,
        typer.Option(
            metavar="auto|paper|cpu|tiny",
            help="As published; on a frozen ImageNet backbone, within minutes on two cores; or "
            "tiny, for tests. Auto is paper with a GPU, else cpu.",
        ),
    ] = "auto",
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Optimiser steps.  [default: the profile's]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side of the detector's input.  [default: the profile's]"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any other setting that `anomalysmith detectors NAME` lists; may be given several "
            "times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")] = 0,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Device of the training.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Precision of matrix products.")
    ] = "auto",
    compile: Annotated[
        str,
        typer.Option(
            metavar="off|default|reduce-overhead",
            help="Compile the step with torch.compile; takes a minute, pays on long GPU runs.",
        ),
    ] = "off",
    workers: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Processes that read images; 0 is usually the fastest."
        ),
    ] = 0,
    threads: Threads = None,
    beside: Annotated[
        str | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="For detector parts: another detector whose score counts, too; a network is "
            "trained where it has one.",
        ),
    ] = None,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights of the frozen teacher.  [default: the file that `weights` finds]",
        ),
    ] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decisions about the version: rejected samples are left out, unsure ones count "
            "half.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT", help="Start from the tensors of this checkpoint that fit."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a detector on a dataset version; its real test images are never read.

    A run that was interrupted or killed continues where it stopped when it is started again with
    the same arguments; a finished run is read from DIR. Under torchrun every process calls this
    command, and rank 0 prints.
    """
    # Must stay the first statement: it holds the options and nothing else.
    options = locals()
    from flows.jobs.train import job_of

    # torchrun sets both variables; RANK alone may come from elsewhere.
    rank = int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    try:
        with stdout_to_stderr(as_json or rank > 0):
            job = job_of(options | {"changes": changes or ()})
            content, text = _preview(job) if dry_run else _run(job, rank)
    except KeyboardInterrupt:
        if not rank:
            print_note(f"\ninterrupted: {_kept(out)}")
        exit_with(INTERRUPTED)
    except AnomalysmithError as error:
        if not rank:
            raise
        print_error(f"process {rank}: {error}")  # standard output belongs to the first process
        exit_with(error.exit_code)
    if not rank:
        print_result(content, as_json, text)


def _run(job: TrainJob, rank: int) -> tuple[dict[str, Any], str]:
    from detectors.training.progress import Watcher
    from flows.commands.progress_bars import StoppableBar, first_decides
    from flows.jobs.train import report_json, train

    # Only rank 0 shows a bar and handles Ctrl-C.
    if rank:
        with first_decides():
            return report_json(job, train(job, Watcher())), ""
    with StoppableBar() as bar:
        content = report_json(job, train(job, bar))
    return content, as_text(content, job.version)


def _kept(out: Path) -> str:
    """What an interrupted training has saved, as half a sentence."""
    from detectors.training.resume import newest

    folder = newest(out)
    if folder is None:
        return "no state was saved yet, so the same command starts over"
    return f"the state of step {int(folder.name)} is kept in {out}; the same command resumes it"


def _preview(job: TrainJob) -> tuple[dict[str, Any], str]:
    from flows.jobs.train_preview import preview, preview_text

    content = preview(job)
    return content, preview_text(content)


def as_text(content: dict[str, Any], version: Path) -> str:
    """The result of a training as text, with the next command."""
    early = ", stopped early" if content["stopped_early"] else ""
    threads = f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}"
    lines = [
        f"{content['detector']}: {content['steps']} steps, {content['seconds']:.1f} s, "
        f"{threads}{early}",
        *validation_lines(content["validation"]),
        f"checkpoint  {content['checkpoint']}",
        f"next        {_next(content['checkpoint'], version)}",
    ]
    return "\n".join(lines)


def _next(checkpoint: str, folder: Path) -> str:
    """The command that measures the detector: on the version's test images if it has both kinds."""
    from pipeline.dataset.version import open_version

    words = f"anomalysmith evaluate --checkpoint {shlex.quote(checkpoint)}"
    test = open_version(folder).index["counts"]["test"]
    if 0 < test["good"] < test["images"]:
        return f"{words} --version {shlex.quote(str(folder))}"
    return (
        f"{words} --good DIR --bad DIR  (images of your own: the version has no good and bad ones)"
    )


def validation_lines(found: dict[str, Any]) -> list[str]:
    """AUROC and false alarms on images that the fit has not seen."""
    from detectors.training.calibration import rate_interval
    from flows.jobs.evaluate import number

    auroc = "no image AUROC" if found["auroc"] is None else f"image AUROC {number(found['auroc'])}"
    counts = f"{found['normals']} normals, {found['synthetics']} synthetic anomalies"
    lines = [f"held out    {auroc}: {counts}"]
    if found["auroc_by_kind"]:
        kinds = (f"{kind} {number(auroc)}" for kind, auroc in found["auroc_by_kind"].items())
        lines.append(f"            {', '.join(kinds)}")
    # None when the version has no controls.
    share = found["control_false_alarms"]
    if share is not None:
        alarms = f"{share:.0%} of {found['controls']} controls exceed threshold_5"
        lines.append(f"            {alarms}")
    if found["rate_5"] is not None:
        low, high = rate_interval(found["normals"], found["rate_5"])
        lines.append(
            f"            threshold_5: {found['rate_5']:.1%} false alarms on fresh normals "
            f"(95 % interval {low:.1%} to {high:.1%})"
        )
    # Values that are missing for one reason, such as no held-out normals, share its line.
    names: dict[str, list[str]] = {}
    for name, why in found["notes"].items():
        names.setdefault(why, []).append(name)
    return lines + [f"            {', '.join(some)}: {why}" for why, some in names.items()]
