"""`anomalysmith evaluate`: evaluate a checkpoint on the real test split of a version."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    INTERRUPTED,
    Json,
    exit_with,
    print_note,
    print_result,
    stdout_to_stderr,
)
from flows.jobs.evaluate import EvaluateJob, evaluate, headline, number
from pipeline.errors import UserError
from pipeline.utils.text_table import table

Checkpoint = Annotated[
    Path,
    typer.Option(
        metavar="DIR", help="Folder of a checkpoint, as written by `train`.", show_default=False
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="Where the detector runs.")]
Precision = Annotated[
    str, typer.Option(metavar="auto|fp32|tf32|bf16", help="Precision of matrix products.")
]
BatchSize = Annotated[int, typer.Option(metavar="N", min=1, help="Images per batch.")]


def evaluate_command(
    checkpoint: Checkpoint,
    version: Annotated[
        Path,
        typer.Option(
            metavar="VERSION_DIR",
            help="Version with a real test split to score.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a report page and the scores to this folder."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 16,
    original_size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW",
            help="Size of the original image files, for the absolute areas of a "
            "defects_config.json.  [default: as recorded in the version, or that of MVTec LOCO]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a trained detector on the real test split: per image, per pixel, per defect type.

    A metric that cannot be computed is null, and `notes` tells why. The checkpoint is not changed:
    its thresholds come from the version it was trained on.
    """
    # Options are checked before anything heavy is imported.
    job = EvaluateJob(
        checkpoint=checkpoint, version=version, out=out, device=device, precision=precision,
        batch_size=batch_size, original_size=size_of(original_size),
    )  # fmt: skip
    try:
        with stdout_to_stderr(as_json):
            from flows.commands.progress_bars import StepBar

            content = evaluate(job, StepBar("img"))
    except KeyboardInterrupt:
        print_note("\ninterrupted: no report was written")
        exit_with(INTERRUPTED)
    print_result(content, as_json, as_text(content))


def size_of(text: str | None) -> tuple[int, int] | None:
    """(height, width) of `1280x1600`."""
    if text is None:
        return None
    # Height first, as everywhere in the manifest.
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UserError(f"expected --original-size HEIGHTxWIDTH, such as 1280x1600; got {text!r}")
    return int(height), int(width)


# Numerator and denominator of the counts at a threshold: true and false positives.
_COUNTS = (("found", "anomalous"), ("false_alarms", "good"))


def as_text(content: dict[str, Any]) -> str:
    """The metrics as small tables: overall, by defect type, at the thresholds of the training."""
    # Headline metrics, then one row per type of defect, then counts at the thresholds.
    lines = [table(("metric", "value"), headline(content))]
    if content["per_type"]:
        rows = [
            (name, number(row.get("image_auroc")), number(row.get("image_ap")))
            for name, row in content["per_type"].items()
        ]
        lines += ["", table(("type", "image AUROC", "image AP"), rows)]
    # A threshold has no row where the split has no images for it.
    alarms = [(name, row) for name, row in content["thresholds"].items() if row]
    if alarms:
        rows = [
            (name, f"{row['threshold']:.4g}", *(f"{row[a]} of {row[b]}" for a, b in _COUNTS))
            for name, row in alarms
        ]
        lines += ["", table(("threshold", "score", "detected", "false positives"), rows)]
    # Why a metric is missing.
    if content["notes"]:
        lines += ["", *(f"note: {name}: {why}" for name, why in content["notes"].items())]
    if content["report"]:
        lines += ["", f"report  {content['report']}"]
    return "\n".join(lines)
