"""`verify`, `stats`, `gallery` and `show`: looking at a published version."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import BROKEN, DONE, Json, answer, complain, leave, quiet_output, remark
from pipeline.errors import UserError

VersionDir = Annotated[
    Path,
    typer.Argument(metavar="VERSION_DIR", help="The folder of one version.", show_default=False),
]


def verify_command(
    version_dir: VersionDir,
    regenerate: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also make N samples again from their lineage and compare."
        ),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Prove that a version is what was published: every byte, every pixel, every count.

    Exit code 4 and one line per problem when it is not.
    """
    from pipeline.dataset.verify import verify
    from pipeline.dataset.version import MEND

    refused: UserError | None = None
    with quiet_output(as_json):
        report = verify(version_dir)
        problems, checks = list(report.problems), dict(report.checks)
        if regenerate and report.ok:
            from pipeline.generation.reproduce import regenerate as make_again

            try:
                made, differ = make_again(version_dir, regenerate)
                checks["regenerated samples"] = made
                problems += differ
            except UserError as error:  # what was verified so far is worth saying all the same
                refused = error
    for note in report.notes:
        remark(f"note: {note}")
    for problem in problems:
        complain(problem)
    if not report.ok:
        remark(f"to mend it: {MEND}")
    ok = not problems
    content = {
        "ok": ok,
        "version_dir": str(version_dir.resolve()),
        "checks": checks,
        "problems": problems,
        "notes": list(report.notes),
    }
    if refused:
        complain(refused)
        content["error"] = str(refused)
    what = ", ".join(f"{count} {check}" for check, count in sorted(checks.items()))
    answer(content, as_json, f"{'ok' if ok else 'BROKEN'}: {version_dir}\nchecked {what}")
    leave(BROKEN if not ok else refused.exit_code if refused else DONE)


def stats_command(version_dir: VersionDir, as_json: Json = False) -> None:
    """Count what a version holds: splits, kinds, refusals, mask areas, bytes."""
    from pipeline.dataset.version import open_version
    from pipeline.reports.stats import as_text, stats

    with quiet_output(as_json):
        figures = stats(open_version(version_dir))
    answer(figures, as_json, as_text(figures))


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
            help="Its id as the gallery shows it (train/good/000.png@2.0), or its number from 0.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the picture goes.  [default: the sample's name, here]"
        ),
    ] = None,
) -> None:
    """Print the lineage of one sample as JSON; write original | edited | mask as one PNG."""
    import json

    from PIL import Image

    from pipeline.dataset.version import open_version
    from pipeline.reports.sample import find_sample, lineage, triptych

    version = open_version(version_dir)
    found = find_sample(version, sample)
    out = out or Path(f"{version.category}-{_plain(found.record['id'])}.png")
    Image.fromarray(triptych(found)).save(out, format="PNG")
    typer.echo(json.dumps(lineage(version, found), indent=2, ensure_ascii=False))
    remark(f"original | edited | change mask: {out}")


def _plain(sample_id: str) -> str:
    """A sample's id as a file name."""
    return "".join(c if c.isalnum() or c in "@.-" else "_" for c in sample_id)
