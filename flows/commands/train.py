"""`anomalysmith train`: one detector on one dataset version; it can be stopped and goes on."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import INTERRUPTED, Json, answer, complain, leave, quiet_output, remark
from flows.jobs.evaluate import number
from flows.jobs.train import TrainJob, report_json, train
from pipeline.errors import AnomalysmithError


def train_command(
    detector: Annotated[
        str,
        typer.Option(metavar="NAME", help="One of `anomalysmith detectors`.", show_default=False),
    ],
    version: Annotated[
        Path,
        typer.Option(metavar="VERSION_DIR", help="What to train on.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where the checkpoint goes.", show_default=False),
    ],
    profile: Annotated[
        str,
        typer.Option(
            metavar="paper|tiny", help="As published, or small enough for a minute on two cores."
        ),
    ] = "paper",
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
            help="Any other setting, as `anomalysmith detectors NAME` lists them; may be given "
            "several times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Root of every choice.")] = 0,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Where the training runs.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Number format of the products.")
    ] = "auto",
    compile: Annotated[
        str,
        typer.Option(
            metavar="off|default|reduce-overhead",
            help="Let torch.compile build the step; costs a minute, pays on long GPU runs.",
        ),
    ] = "off",
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that read; 0 is mostly the fastest.")
    ] = 0,
    teacher: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Weights of the frozen part.  [default: what `weights` finds]"
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT", help="Begin with the tensors of this checkpoint that fit."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a detector on a dataset version; its real test images are never looked at.

    A run that was interrupted or killed goes on where it stopped when it is started again with the
    same words; a run that was done before is served from DIR. Under torchrun every process calls
    this, and the first one speaks.
    """
    rank = int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0
    job = TrainJob(
        detector=detector, version=version, out=out, profile=profile, steps=steps, size=size,
        changes=changes or (), seed=seed, device=device, precision=precision, compile=compile,
        workers=workers, teacher=teacher, start=start,
    )  # fmt: skip
    try:
        with quiet_output(as_json or rank > 0):
            content, text = _preview(job) if dry_run else _run(job, rank)
    except KeyboardInterrupt:
        if not rank:
            remark(f"\ninterrupted: {_kept(out)}")
        leave(INTERRUPTED)
    except AnomalysmithError as error:
        if not rank:
            raise
        complain(f"process {rank}: {error}")  # standard output belongs to the first process
        leave(error.exit_code)
    if not rank:
        answer(content, as_json, text)


def _run(job: TrainJob, rank: int) -> tuple[dict[str, Any], str]:
    from detectors.training.progress import Watcher
    from flows.commands.progress_bars import StoppableBar, first_decides

    if rank:
        with first_decides():
            return report_json(job, train(job, Watcher())), ""
    with StoppableBar() as bar:
        content = report_json(job, train(job, bar))
    return content, as_text(content, job.version)


def _kept(out: Path) -> str:
    """What an interrupted training has left."""
    from detectors.training.resume import newest

    folder = newest(out)
    if folder is None:
        return "no state was saved yet, so the same command begins again"
    return f"the state of step {int(folder.name)} is kept in {out}, the same command goes on there"


def _preview(job: TrainJob) -> tuple[dict[str, Any], str]:
    from flows.jobs.train_preview import preview, preview_text

    content = preview(job)
    return content, preview_text(content)


def as_text(content: dict[str, Any], version: Path) -> str:
    """A training in words, and what to do with it."""
    early = ", stopped early" if content["stopped_early"] else ""
    lines = [
        f"{content['detector']}: {content['steps']} steps, {content['seconds']:.1f} s{early}",
        *validation_lines(content["validation"]),
        f"checkpoint  {content['checkpoint']}",
        f"next        anomalysmith evaluate --checkpoint {content['checkpoint']} "
        f"--version {version}",
    ]
    return "\n".join(lines)


def validation_lines(found: dict[str, Any]) -> list[str]:
    """What the held-out normals and the samples forged from them say."""
    lines = [
        f"validation  image AUROC {number(found['auroc'])}: {found['normals']} normals, "
        f"{found['synthetics']} synthetic anomalies"
    ]
    if found["auroc_by_kind"]:
        kinds = (f"{kind} {number(auroc)}" for kind, auroc in found["auroc_by_kind"].items())
        lines.append(f"            {', '.join(kinds)}")
    share = found["control_false_alarms"]
    if share is not None:
        alarm = f"{share:.0%} of {found['controls']} controls raise the alarm at threshold_5"
        lines.append(f"            {alarm}")
    return lines + [f"            {name}: {why}" for name, why in found["notes"].items()]
