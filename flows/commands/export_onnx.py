"""`anomalysmith export-onnx`: a checkpoint as one file for programs without PyTorch."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, answer, quiet_output
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
            help="Compare on its validation images too, not on drawn ones only.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            help="Allowed difference from PyTorch, as a share of the largest value.  "
            "[default: 0.001]",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a checkpoint as ONNX and compare it with PyTorch; exit code 4 when they disagree.

    The file takes uint8 RGB images (batch, 3, size, size), gives scores and maps, and carries the
    thresholds in its metadata. A file that is off by more than the tolerance is not kept.
    """
    with quiet_output(as_json):
        from detectors.evaluation.onnx_export import TOLERANCE, export
        from pipeline.dataset.version import open_version

        allowed = TOLERANCE if tolerance is None else tolerance
        probes = None if version is None else open_version(version)
        exported = export(checkpoint, out, allowed, probes)
    lines = [
        f"{exported.path}: {exported.bytes / 1e6:.1f} MB, {exported.size} px",
        f"differs from PyTorch on {exported.images} images by at most {exported.score_error:.1g} "
        f"(scores) and {exported.map_error:.1g} (maps) of the largest value",
    ]
    answer(exported.to_json(), as_json, "\n".join(lines))
