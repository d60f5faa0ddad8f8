"""`anomalysmith doctor`: what is there, what is missing, and how to get it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, answer, leave, quiet_output
from flows.jobs.category_options import MANIFEST


def doctor_command(
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The manifest to look at.  [default: data_manifest.yaml]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would find: images, sizes, masks, splits, weights, device; what is missing.

    Exit code 2 when something must be mended first, 3 when a run works but leaves files out.
    """
    from flows.commands.doctor_text import as_text
    from pipeline.config.manifest import read_manifest
    from pipeline.generation.doctor import inspect

    with quiet_output(as_json):
        report = inspect(read_manifest(manifest or MANIFEST))
    answer(asdict(report), as_json, as_text(report))
    leave(report.exit_code)
