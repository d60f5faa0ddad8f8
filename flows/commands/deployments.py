"""`anomalysmith deployments`: write `prefect.yaml` from the manifest, or say that it is stale."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, answer
from flows.jobs.category_options import MANIFEST
from pipeline.config.manifest import read_manifest
from pipeline.errors import UserError

NEXT = """\
next: prefect work-pool create local --type process     (once)
      prefect work-pool set-concurrency-limit local 1   (once: one job at a time)
      prefect --no-prompt deploy --all"""


def deployments_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Whose categories.  [default: data_manifest.yaml]"),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="What is written, in the checkout's root.")
    ] = Path("prefect.yaml"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail when the file is stale.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write Prefect's deployments: per flow one for each category of the manifest, and one for all.

    Schedules are there and off. The file is made from the manifest alone and is not to be edited.
    """
    from flows.jobs.deployments import FLOWS, render

    path = manifest or MANIFEST
    read = read_manifest(path)
    text = render(read, path, out)
    before = out.read_text() if out.is_file() else None
    fresh = before == text
    if check and not fresh:
        words = [] if manifest is None else [f"--manifest {manifest}"]
        words += [] if out == Path("prefect.yaml") else [f"--out {out}"]
        raise UserError(
            f"{out} {'is not there' if before is None else f'is older than {path}'}; "
            f"run `{' '.join(['anomalysmith deployments', *words])}`"
        )
    if not fresh:
        out.write_text(text)
    count = len(FLOWS) * (len(read.categories) + 1)
    content = {"file": str(out.absolute()), "deployments": count, "written": not fresh}
    said = "is fresh" if fresh else "written"
    lines = f"{out}: {count} deployments, {said}"
    answer(content, as_json, lines if check else f"{lines}\n{NEXT}")
