"""`anomalysmith doctor`: what is there, what is missing, and how to get it."""

from pathlib import Path
from typing import Annotated

import typer

from flows.console import Json


def doctor_command(
    manifest: Annotated[
        Path | None, typer.Option(help="The manifest to look at.  [default: data_manifest.yaml]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would find: images, sizes, masks, splits, weights, device; and what is missing."""
