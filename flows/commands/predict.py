"""`anomalysmith predict`: score image files with a checkpoint."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    FollowLinks,
    Json,
    exit_with,
    is_standard_output,
    print_note,
    print_result,
    stdout_to_stderr,
)
from flows.commands.evaluate import BatchSize, Checkpoint, Device, Precision
from pipeline.utils.repeated import repeated
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
    explain: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write an annotated picture of each image to this folder: parts by name, what is "
            "wrong, what is missing. For detectors that give reasons, such as parts.",
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write one line per image to this file; - is standard output."
        ),
    ] = None,
    follow_links: FollowLinks = None,
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
    could not be read: these are named, the others are scored. A run with --csv or --maps that was
    killed continues where it stopped when the same command is run again.
    """
    aside = is_standard_output(csv, as_json)
    try:
        with stdout_to_stderr(as_json):
            from detectors.evaluation.predict import predict
            from flows.commands.progress_bars import StepBar
            from pipeline.utils.files import is_stream, replaced_by, require_writable

            with ExitStack() as stack:
                stream: BinaryIO | None = None
                if aside:
                    stream = sys.stdout.buffer
                elif csv is not None and is_stream(csv):
                    stream = stack.enter_context(csv.open("wb"))
                elif csv is not None:
                    # Before the images are scored, not after an hour.
                    require_writable(replaced_by(csv).parent)
                # Scores of all readable images; the others are in `failures`.
                found = predict(
                    checkpoint, images, maps, explain=explain, csv=None if stream else csv,
                    stream=stream, links=follow_links, device=device, precision=precision,
                    batch_size=batch_size, threshold=threshold, watcher=StepBar("img"),
                )  # fmt: skip
    except KeyboardInterrupt:
        kept = "finished images are kept, the same command continues"
        print_note(f"\ninterrupted: {kept if csv or maps else 'nothing is kept without --csv'}")
        exit_with(INTERRUPTED)
    for line in repeated(found.failures.items()):
        print_note(f"skipped {line}")
    for note in found.notes.values():
        print_note(f"note: {note}")
    # One row per image with its verdict at the chosen threshold, and why.
    head = ["image", "score", f"by {found.threshold}", "reasons"]
    rows = [
        [
            one.path,
            f"{one.score:.4g}",
            one.verdict,
            "; ".join(reason["words"] for reason in one.reasons),
        ]
        for one in found.images
    ]
    # Most detectors give no reasons.
    columns = 4 if any(one.reasons for one in found.images) else 3
    lines = [table(head[:columns], [row[:columns] for row in rows])] if rows else []
    lines += [f"maps  {maps}"] if maps else []
    lines += [f"why   {explain}"] if explain else []
    lines += [f"csv   {csv}"] if csv and not aside else []
    text = "\n".join(lines) or "no image could be read"
    print_result(found.to_json(), as_json, text, aside=aside)
    exit_with(SKIPPED if found.failures else DONE)
