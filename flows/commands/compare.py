"""`anomalysmith compare`: which detector to take, and what it would and would not find."""

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    INTERRUPTED,
    Json,
    exit_with,
    print_note,
    print_result,
    stdout_to_stderr,
    worst_code,
)
from flows.commands.train import Threads
from pipeline.utils.repeated import repeated

if TYPE_CHECKING:
    from flows.jobs.compare import CompareJob, Plan


def compare_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="VERSION",
            help="Folder of a dataset version, or a category of the manifest.",
            show_default=False,
        ),
    ],
    detectors: Annotated[
        list[str] | None,
        typer.Option(
            "--detector",
            metavar="NAME",
            help="A detector to compare; may be given several times.  [default: all that fit this "
            "machine]",
        ),
    ] = None,
    profile: Annotated[
        str,
        typer.Option(
            metavar="auto|paper|cpu|tiny",
            help="Size of the detectors. Auto is paper with a GPU, else cpu.",
        ),
    ] = "auto",
    false_alarms: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Share of good products that may be rejected."),
    ] = 0.05,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Optimiser steps of each.  [default: the profile's]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="PX", help="Side of the detectors' input.  [default: the profile's]"),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="DETECTOR.KEY=VALUE",
            help="A setting of one detector, such as nearest.bank=500; may be given several times.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Random seed.")] = 0,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda", help="Device of training and scoring.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Precision of matrix products.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Processes that read images.")
    ] = 0,
    threads: Threads = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decisions about the version: detectors are neither trained nor judged on "
            "rejected samples.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the page and the checkpoints.  [default: "
            "detectors/CATEGORY/VERSION beside the store]",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The manifest of the category.  [default: data_manifest.yaml]"
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Store of the category.  [default: the manifest's]"),
    ] = None,
    test: Annotated[
        bool,
        typer.Option(
            "--test/--no-test",
            help="Score the real test split, where there is one, once the recommendation stands.",
        ),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train detectors on a version and recommend one, judged on held-out synthetic anomalies.

    Needs no defective image. Writes compare.html, a page with the share of every kind of anomaly
    (and of every broken rule) that each detector finds at the false-alarm rate that you allow, and
    compare.json. Interrupted, the same command continues; finished trainings are reused.
    """
    # Must stay the first statement: it holds the options and nothing else.
    options = locals()
    try:
        with stdout_to_stderr(as_json):
            job = _job(options)
            if dry_run:
                from flows.jobs.compare_preview import preview, preview_text

                content = preview(job)
                text, code = preview_text(content), 0
            else:
                content, text, code = _run(job)
    except KeyboardInterrupt:
        print_note("\ninterrupted: finished trainings and saved steps are kept; the same command "
                   "continues")  # fmt: skip
        exit_with(INTERRUPTED)
    print_result(content, as_json, text)
    if code:
        exit_with(code)


def _job(options: dict[str, Any]) -> "CompareJob":
    """The job for these options of the command."""
    from flows.jobs.compare import CompareJob, version_of

    target, manifest, store = options["target"], options["manifest"], options["store"]
    named = {field.name for field in fields(CompareJob)}
    chosen = {name: value for name, value in options.items() if name in named}
    for name in ("detectors", "changes"):
        chosen[name] = tuple(chosen[name] or ())
    return CompareJob(version=version_of(target, manifest, store), **chosen)


def _run(job: "CompareJob") -> tuple[dict[str, Any], str, int]:
    from flows.commands.progress_bars import StepBar, StoppableBar
    from flows.jobs.compare import compared, planned, train_all

    plan = planned(job)
    for line in repeated(plan.left_out.items(), "detectors"):
        print_note(f"left out: {line}")
    with StoppableBar() as bar:
        failed = train_all(plan, bar)
    content = compared(job, plan, {n: str(e) for n, e in failed.items()}, StepBar("img"))
    text = f"{content.pop('text')}\n\n{_places(content, plan)}"
    return content, text, worst_code([error.exit_code for error in failed.values()])


def _places(content: dict[str, Any], plan: "Plan") -> str:
    """Where the page is, and the next command."""
    name = content["recommendation"]["detector"]
    checkpoint = next(one.out for one in plan.jobs if one.recipe.name == name)
    return f"page  {content['page']}\nnext  anomalysmith predict --checkpoint {checkpoint} IMAGES"
