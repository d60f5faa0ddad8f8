"""`anomalysmith evaluate`: a checkpoint against the real test split of a version."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    INTERRUPTED,
    Json,
    answer,
    leave,
    quiet_output,
    remark,
    table,
)
from flows.jobs.evaluate import EvaluateJob, evaluate, headline, number
from pipeline.errors import UserError

Checkpoint = Annotated[
    Path,
    typer.Option(metavar="DIR", help="The folder that `train` has filled.", show_default=False),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the detector runs.")]
Precision = Annotated[
    str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Number format of the products.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Pictures at once.")]


def evaluate_command(
    checkpoint: Checkpoint,
    version: Annotated[
        Path,
        typer.Option(
            metavar="VERSION_DIR", help="Whose real test split is scored.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a report page and the scores there."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 16,
    original_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size of the images before they were stored, for the absolute areas of a "
            "defects_config.json.  [default: as the version or MVTec LOCO has it]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a trained detector on the real test split: pictures, places, kinds of defects.

    A number that cannot be had is null, and `notes` says why. Nothing here changes the checkpoint:
    its thresholds come from its training version.
    """
    job = EvaluateJob(
        checkpoint=checkpoint, version=version, out=out, device=device, precision=precision,
        batch_size=batch_size, original_size=size_of(original_size),
    )  # fmt: skip
    try:
        with quiet_output(as_json):
            from flows.commands.progress_bars import StepBar

            content = evaluate(job, StepBar("img"))
    except KeyboardInterrupt:
        remark("\ninterrupted: nothing was written")
        leave(INTERRUPTED)
    answer(content, as_json, as_text(content))


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `1280x1600`."""
    if text is None:
        return None
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"--original-size is HEIGHTxWIDTH, such as 1280x1600; got {text!r}")
    return int(height), int(width)


_COUNTS = (("found", "anomalous"), ("false_alarms", "good"))


def as_text(content: dict[str, Any]) -> str:
    """The numbers as small tables."""
    lines = [table(("metric", "value"), headline(content))]
    if content["per_type"]:
        rows = [
            (name, number(row.get("image_auroc")), number(row.get("image_ap")))
            for name, row in content["per_type"].items()
        ]
        lines += ["", table(("type", "image AUROC", "image AP"), rows)]
    alarms = [(name, row) for name, row in content["thresholds"].items() if row]
    if alarms:
        rows = [
            (name, f"{row['threshold']:.4g}", *(f"{row[a]} of {row[b]}" for a, b in _COUNTS))
            for name, row in alarms
        ]
        lines += ["", table(("threshold", "score", "found", "false alarms"), rows)]
    if content["notes"]:
        lines += ["", *(f"note: {name}: {why}" for name, why in content["notes"].items())]
    if content["report"]:
        lines += ["", f"report  {content['report']}"]
    return "\n".join(lines)
