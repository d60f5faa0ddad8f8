"""`anomalysmith export`: write a version in the layout of another tool."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, print_note, print_result, stdout_to_stderr
from flows.commands.versions import VersionDir


def export_command(
    version_dir: VersionDir,
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="mvtec, anomalib, coco, hf, webdataset or fiftyone.",
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
            help="mvtec and anomalib: held-out = test on samples of validation images only; "
            "all = also on those of training images.",
        ),
    ] = "held-out",
    test: Annotated[
        str,
        typer.Option(
            metavar="WHICH",
            help="mvtec and anomalib: test on synthetic anomalies, on the real test split, or on "
            "both.",
        ),
    ] = "synthetic",
    controls: Annotated[
        bool,
        typer.Option(
            "--controls/--no-controls",
            help="Include controls, the edited images that are labelled normal; --no-controls "
            "leaves them out.",
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Write a version in the layout of another tool: images, masks, licence and lineage.

    A new folder appears complete or not at all; an empty one that is there, such as `.`, is filled.
    If it holds this export already, it is checked and left as it is. What each format
    contains, and how its tool opens it: docs/export.md.
    """
    from flows.commands.progress_bars import counting
    from pipeline.dataset.version import open_version
    from pipeline.export.base import ExportOptions
    from pipeline.export.run import export

    with stdout_to_stderr(as_json):
        # The options check themselves and raise UserError.
        options = ExportOptions(controls=controls, samples=samples, test=test)
        version = open_version(version_dir)
        # The bar appears only if the export takes longer than a second.
        with counting(f"{version.category}: exporting", "img", delay=1.0) as show:
            report = export(version, to, out, options, show)
    # What the target format cannot express.
    for note in report.notes:
        print_note(f"note: {note}")
    # Of a folder that existed before, the same facts from its own index.
    content: dict[str, Any] = {
        "version_dir": str(version_dir.resolve()),
        "to": report.to,
        "out": str(report.out),
        "pictures": report.images,
        "left_out": dict(report.left_out),
        "licence": report.licence,
        "notes": list(report.notes),
        "cached": report.cached,
    }
    # What was written, under which licence, and how to open it.
    lines = [
        f"{'already complete' if report.cached else 'exported'}: {report.out}",
        f"{report.images} images; licence of the source images: {report.licence}",
        *(f"left out: {count} {reason}" for reason, count in sorted(report.left_out.items())),
        f"how to open it: {report.out / 'README.md'}",
    ]
    print_result(content, as_json, "\n".join(lines))
