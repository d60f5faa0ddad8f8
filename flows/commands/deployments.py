"""`anomalysmith deployments`: write `prefect.yaml` from the manifest, or check that it is fresh."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, is_standard_output, print_result, write_output
from pipeline.errors import UserError

NEXT = """\
next: prefect work-pool create local --type process     (once)
      prefect work-pool set-concurrency-limit local 1   (once: one job at a time)
      prefect --no-prompt deploy --all"""


def deployments_command(
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Manifest with the categories.  [default: data_manifest.yaml]"
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="File to write, in the root of the checkout.")
    ] = Path("prefect.yaml"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 2 when the file is stale.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write Prefect's deployments: per flow one for each category of the manifest, and one for all.

    Schedules are included but off. The file is generated from the manifest; do not edit it.
    """
    from flows.jobs.category_options import MANIFEST
    from flows.jobs.deployments import FLOWS, render
    from pipeline.config.manifest import read_manifest

    aside = is_standard_output(out, as_json)
    path = manifest or MANIFEST
    read = read_manifest(path)
    text = render(read, path, out)
    # The whole text is compared: new categories, another template or another Prefect make it stale.
    before = out.read_text("utf-8") if out.is_file() else None
    fresh = before == text
    if check and not fresh:
        # The command that would repair it, with the options of this call.
        words = [] if manifest is None else [f"--manifest {manifest}"]
        words += [] if out == Path("prefect.yaml") else [f"--out {out}"]
        raise UserError(
            f"{out} {'is not there' if before is None else f'is older than {path}'}; "
            f"run `{' '.join(['anomalysmith deployments', *words])}`"
        )
    if not fresh:
        write_output(out, text.encode())
    count = len(FLOWS) * (len(read.categories) + 1)
    content = {"file": str(out.absolute()), "deployments": count, "written": not fresh}
    said = "is fresh" if fresh else "written"
    lines = f"{out}: {count} deployments, {said}"
    print_result(content, as_json, lines if check else f"{lines}\n{NEXT}", aside=aside)
