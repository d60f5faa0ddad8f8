"""`anomalysmith verify`, `stats`, `gallery` and `show`: inspect a published version."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import (
    DONE,
    INTEGRITY_ERROR,
    Json,
    exit_with,
    is_standard_output,
    json_text,
    print_error,
    print_note,
    print_result,
    stdout_to_stderr,
    write_output,
)
from pipeline.errors import UserError
from pipeline.utils.repeated import repeated

VersionDir = Annotated[
    Path,
    typer.Argument(metavar="VERSION_DIR", help="The folder of one version.", show_default=False),
]


def verify_command(
    version_dir: VersionDir,
    regenerate: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also generate N samples again from their lineage and compare."
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Check that a version is what was published: every byte, every pixel, every count.

    Exit code 4 and one line per kind of problem if it is not; --json has every problem.
    """
    from pipeline.dataset.verify import verify
    from pipeline.dataset.version import REPAIR

    impossible: UserError | None = None
    with stdout_to_stderr(as_json):
        # First the stored bytes, then, only if these are sound, the generated samples.
        report = verify(version_dir)
        problems, checks = list(report.problems), dict(report.checks)
        if regenerate and report.ok:
            from pipeline.generation import reproduce

            try:
                count, differ = reproduce.regenerate(version_dir, regenerate)
                # Counted and reported like every other check.
                checks["regenerated samples"] = count
                problems += differ
            except UserError as error:
                # This machine lacks a model or a device; report what was verified all the same.
                impossible = error
    for note in report.notes:
        print_note(f"note: {note}")
    # A problem begins with the place that it is about.
    for line in repeated(((p.partition(": ")[0], p) for p in problems), "places"):
        print_error(line)
    if not report.ok:
        print_note(f"to repair it: {REPAIR}")
    # Differing regenerated samples count as problems, too.
    ok = not problems
    content = {
        "ok": ok,
        "version_dir": str(version_dir.resolve()),
        "checks": checks,
        "problems": problems,
        "notes": list(report.notes),
    }
    if impossible:
        print_error(impossible)
        # The version is sound as far as it was checked, but the exit code is that of the error.
        content["error"] = str(impossible)
    # How much was checked, by what was counted.
    what = ", ".join(f"{count} {check}" for check, count in sorted(checks.items()))
    print_result(content, as_json, f"{'ok' if ok else 'BROKEN'}: {version_dir}\nchecked {what}")
    exit_with(INTEGRITY_ERROR if not ok else impossible.exit_code if impossible else DONE)


def stats_command(version_dir: VersionDir, as_json: Json = False) -> None:
    """Statistics of a version: splits, kinds, rejections, mask areas, bytes."""
    from pipeline.dataset.version import open_version
    from pipeline.reports.stats import as_text, stats

    with stdout_to_stderr(as_json):
        figures = stats(open_version(version_dir))
    print_result(figures, as_json, as_text(figures))


def gallery_command(version_dir: VersionDir) -> None:
    """Write the version's gallery page again and print where it is."""
    from pipeline.reports.gallery import write_gallery

    typer.echo(str(write_gallery(version_dir).resolve()))


def show_command(
    version_dir: VersionDir,
    sample: Annotated[
        str,
        typer.Argument(
            metavar="SAMPLE",
            help="Its id as shown in the gallery (train/good/000.png@2.0), or its number from 0.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Image to write.  [default: the sample's name, in this folder]"
        ),
    ] = None,
) -> None:
    """Print the lineage of one sample as JSON; write original | edited | mask as one PNG."""
    import io

    from PIL import Image

    from pipeline.dataset.version import open_version
    from pipeline.reports.sample import find_sample, lineage, triptych

    version = open_version(version_dir)
    found = find_sample(version, sample)
    out = out or Path(f"{version.category}-{_plain(found.record['id'])}.png")
    aside, image = is_standard_output(out), io.BytesIO()
    Image.fromarray(triptych(found)).save(image, format="PNG")
    # The image first: if it cannot be written, no lineage is printed either.
    write_output(out, image.getvalue())
    typer.echo(json_text(lineage(version, found), indent=2), err=aside)
    if not aside:
        print_note(f"original | edited | change mask: {out}")


def _plain(sample_id: str) -> str:
    """The id of a sample as a file name."""
    return "".join(c if c.isalnum() or c in "@.-" else "_" for c in sample_id)
