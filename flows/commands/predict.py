"""`anomalysmith predict`: score image files with a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    Json,
    exit_with,
    print_note,
    print_result,
    stdout_to_stderr,
)
from flows.commands.evaluate import BatchSize, Checkpoint, Device, Precision
from pipeline.utils.text_table import table


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
            help="Write the anomaly map of each image to this folder: 16-bit grey, and as a heat "
            "map over the image.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one line per image to this file.")
    ] = None,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Threshold of the verdict: threshold_1 or threshold_5, which at most 1 or 5 % of "
            "fresh normals reach, or threshold_f1, the best F1 on synthetic anomalies.",
        ),
    ] = "threshold_1",
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: BatchSize = 16,
    as_json: Json = False,
) -> None:
    """Score images with a trained detector: anomaly score, anomaly map, and a verdict.

    Images may have any size; they are decoded and resized as in training. Exit code 3 when some
    could not be read: these are named, the others are scored.
    """
    try:
        with stdout_to_stderr(as_json):
            from detectors.evaluation.predict import predict
            from flows.commands.progress_bars import StepBar
            from pipeline.utils.files import named_disk_errors, require_writable, write_atomic

            # Before the images are scored, not after an hour.
            if csv is not None:
                require_writable(csv.parent)
            # Scores of all readable images; the others are in `failures`.
            found = predict(
                checkpoint, images, maps, device=device, precision=precision,
                batch_size=batch_size, threshold=threshold, watcher=StepBar("img"),
            )  # fmt: skip
            if csv is not None:
                with named_disk_errors(csv.parent):
                    write_atomic(csv, found.to_csv().encode())
    except KeyboardInterrupt:
        print_note("\ninterrupted: maps written so far are kept, the same command starts again")
        exit_with(INTERRUPTED)
    # Some reasons name the file themselves.
    for path, reason in found.failures.items():
        print_note(f"skipped {reason}" if path in reason else f"skipped {path}: {reason}")
    for note in found.notes.values():
        print_note(f"note: {note}")
    # One row per image with its verdict at the chosen threshold.
    rows = [(one.path, f"{one.score:.4g}", one.verdict) for one in found.images]
    lines = [table(("image", "score", f"by {found.threshold}"), rows)] if rows else []
    lines += [f"maps  {maps}"] if maps else []
    lines += [f"csv   {csv}"] if csv else []
    print_result(found.to_json(), as_json, "\n".join(lines) or "no image could be read")
    exit_with(SKIPPED if found.failures else DONE)
