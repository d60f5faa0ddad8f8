"""`anomalysmith export-onnx`: write a checkpoint as one file for programs without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, print_note, print_result, stdout_to_stderr
from flows.commands.evaluate import Checkpoint


def export_onnx_command(
    checkpoint: Checkpoint,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="The file to write.", show_default=False)
    ],
    version: Annotated[
        Path | None,
        typer.Option(
            metavar="VERSION_DIR",
            help="Also compare on its validation images, not only on random ones.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Allowed difference from PyTorch, relative to the largest value.  "
            "[default: 0.001]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as ONNX and compare it with PyTorch; exit code 4 when they disagree.

    The model takes decoded uint8 RGB photographs (batch, 3, height, width) of any size, resizes
    them as `predict` does, returns scores and maps, and has the thresholds in its metadata. A file
    that differs by more than the tolerance is deleted.
    """
    # torch.onnx prints while it exports.
    with stdout_to_stderr(as_json):
        from detectors.evaluation.onnx_export import TOLERANCE, export
        from pipeline.dataset.version import open_version

        # The default is known only after the heavy import.
        allowed = TOLERANCE if tolerance is None else tolerance
        probes = None if version is None else open_version(version)
        exported = export(checkpoint, out, allowed, probes)
    # Size of the file, then how well it agrees with PyTorch.
    lines = [
        f"{exported.path}: {exported.bytes / 1e6:.1f} MB, images of any size, maps of "
        f"{exported.size} px",
        f"differs from PyTorch on {exported.images} images by at most {exported.score_error:.1g} "
        f"(scores) and {exported.map_error:.1g} (maps) of the largest value",
    ]
    if not exported.thresholds:
        # Several thresholds are usually missing for one reason.
        why = "; ".join(dict.fromkeys(exported.notes.values())) or "it was not calibrated"
        print_note(f"note: the file has no thresholds, so it gives scores and no verdicts: {why}")
    print_result(exported.to_json(), as_json, "\n".join(lines))
