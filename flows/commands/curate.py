"""`anomalysmith curate`: a new version without the samples that reviewers rejected."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.console import Json, print_note, print_result, stdout_to_stderr
from flows.commands.versions import VersionDir
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from flows.jobs.curate import Curated


def curate_command(
    version_dir: VersionDir,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decisions about the version.  [default: VERSION_DIR.reviews.jsonl, which "
            "`serve` writes]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish a new version without the samples that reviewers rejected.

    Everything else is equal to the version, byte for byte; its name, the digest of the decisions
    and their counts are recorded. Disputed and doubtful samples stay. `generate --reviews` puts
    other samples in the place of the rejected ones.
    """
    from flows.commands.progress_bars import ImageBar
    from flows.jobs.curate import curate
    from flows.jobs.generate import WAITING
    from pipeline.dataset.version import open_version

    with stdout_to_stderr(as_json):
        version, bar = open_version(version_dir), ImageBar()
        bar.packing_started(version.category, version.index["counts"]["images"])
        try:
            found = curate(
                version_dir,
                reviews,
                bar.packing_progress,
                lambda: bar.say(WAITING.format(name=version.category)),
            )
        finally:
            bar.stage_finished()
    for line in _notes(found):
        print_note(f"note: {line}")
    print_result(found.to_json(), as_json, as_text(found))


def as_text(found: "Curated") -> str:
    """Counts of the decisions, then where the new version is."""
    facts, counts = found.reviews.to_json(), found.parent.index["counts"]
    before, after = counts["accepted"], found.version.index["counts"]["accepted"]
    head = f"{found.parent.category}: {before - after} of {before} samples left out"
    rows = [(name, facts[name]) for name in ("keep", "reject", "unsure", "disputed", "reviewed")]
    rows.append(("not reviewed", before - facts["reviewed"]))
    places: list[tuple[str, object]] = [("parent", found.parent.dir)]
    places += [("version", found.version.dir.resolve()), ("digest", found.version.digest)]
    return "\n".join([head, "", table(("decision", "samples"), rows), "", table(None, places, "<")])


def _notes(found: "Curated") -> list[str]:
    notes = []
    if found.version.name == found.parent.name:
        notes.append("no sample is rejected, so the version stays as it is")
    if found.reviews.elsewhere:
        notes.append(
            f"{found.reviews.elsewhere} decisions are about samples that this version does not "
            "hold, or that look different in it"
        )
    if found.reviews.unreadable:
        notes.append(f"{found.reviews.unreadable} lines of the file hold no decision")
    return notes
