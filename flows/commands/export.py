"""`anomalysmith export`: a version in the layout of another tool."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, answer, in_words, quiet_output, remark
from flows.commands.versions import VersionDir
from pipeline.export.registry import FORMATS, TRAIN_TEST

SPLIT_FORMATS = in_words(TRAIN_TEST, "and")


def export_command(
    version_dir: VersionDir,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help=f"{in_words(FORMATS, 'or')}.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="A new or empty folder.", show_default=False)
    ],
    samples: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help=f"{SPLIT_FORMATS}: held-out = test with samples of validation images only; "
            "all = with those of training images too.",
        ),
    ] = "held-out",
    test: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help=f"{SPLIT_FORMATS}: test with what is synthetic, with the real test split, or "
            "with both.",
        ),
    ] = "synthetic",
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Take the edited images that stayed normal along; --no-controls leaves them out.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a version in the layout of another tool: images, masks, licence and lineage.

    The folder appears whole or not at all. A second run finds it there, checks it and leaves it.
    What each format holds, and how its tool opens it: docs/export.md.
    """
    from flows.commands.progress_bars import counting
    from pipeline.dataset.version import open_version
    from pipeline.export.base import ExportOptions
    from pipeline.export.run import export

    with quiet_output(as_json):
        options = ExportOptions(controls=controls, samples=samples, test=test)
        version = open_version(version_dir)
        with counting(f"{version.category}: exporting", "img", delay=1.0) as show:
            report = export(version, to, out, options, show)
    for note in report.notes:
        remark(f"note: {note}")
    content: dict[str, Any] = {
        "version_dir": str(version_dir.resolve()),
        "to": report.to,
        "out": str(report.out),
        "pictures": report.pictures,
        "left_out": dict(report.left_out),
        "licence": report.licence,
        "notes": list(report.notes),
        "cached": report.cached,
    }
    lines = [
        f"{'there already, whole' if report.cached else 'exported'}: {report.out}",
        f"{report.pictures} pictures; licence of the source images: {report.licence}",
        *(f"not here: {count} {reason}" for reason, count in sorted(report.left_out.items())),
        f"how to open it: {report.out / 'README.md'}",
    ]
    answer(content, as_json, "\n".join(lines))
