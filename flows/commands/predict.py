"""`anomalysmith predict`: score image files with a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    Json,
    answer,
    leave,
    quiet_output,
    remark,
    table,
)
from flows.commands.evaluate import BatchSize, Checkpoint, Device, Precision


def predict_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", help="Image files, or folders of them.", show_default=False
        ),
    ],
    checkpoint: Checkpoint,
    maps: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write each image's map there: 16-bit grey, and heat over the picture.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one line per image there.")
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What the verdict hangs on: threshold_1 or threshold_5, which 1 or 5 % of "
            "validation normals reach, or threshold_f1, the best F1 on synthetics.",
        ),
    ] = "threshold_1",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 16,
    as_json: Json = False,
) -> None:
    """Score images with a trained detector: how anomalous, where, and whether to raise the alarm.

    Images may have any size; they are read and resized as those of the training were. Exit code 3
    when some could not be read: they are named, the others are scored.
    """
    try:
        with quiet_output(as_json):
            from detectors.evaluation.predict import predict
            from flows.commands.progress_bars import StepBar
            from pipeline.utils.files import naming_the_disk, require_writable, write_whole

            if csv is not None:
                require_writable(csv.parent)
            found = predict(
                checkpoint, images, maps, device=device, precision=precision,
                batch_size=batch_size, threshold=threshold, watcher=StepBar("img"),
            )  # fmt: skip
            if csv is not None:
                with naming_the_disk(csv.parent):
                    write_whole(csv, found.to_csv().encode())
    except KeyboardInterrupt:
        remark("\ninterrupted: maps that were written are there, the same command begins again")
        leave(INTERRUPTED)
    for path, reason in found.failures.items():
        remark(f"skipped {reason}" if path in reason else f"skipped {path}: {reason}")
    for note in found.notes.values():
        remark(f"note: {note}")
    rows = [(one.path, f"{one.score:.4g}", one.verdict) for one in found.images]
    lines = [table(("image", "score", f"by {found.threshold}"), rows)] if rows else []
    lines += [f"maps  {maps}"] if maps else []
    lines += [f"csv   {csv}"] if csv else []
    answer(found.to_json(), as_json, "\n".join(lines) or "no image could be read")
    leave(SKIPPED if found.failures else DONE)
