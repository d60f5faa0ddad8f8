"""`anomalysmith doctor`: check images, models, device and store before a run."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.console import (
    AllNormal,
    FollowLinks,
    Json,
    exit_with,
    print_result,
    stdout_to_stderr,
)
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from pipeline.generation.doctor import CategoryHealth, DoctorReport


def doctor_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The manifest to check.  [default: data_manifest.yaml]"),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this category; may be given several times."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="KIND:PATH", help="One folder instead of the manifest's sources."),
    ] = None,
    all_normal: AllNormal = False,
    follow_links: FollowLinks = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Also decode every pixel, load the models and run them on one image of each "
            "category.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check what a run needs: images, sizes, masks, splits, weights, device; and what is missing.

    Exit code 2 when something must be fixed first, 3 when a run works but skips files.
    """
    from flows.jobs.category_options import Choices, settings_of
    from pipeline.generation.doctor import examine

    choices = Choices(
        manifest=manifest, categories=category or (), source=source, all_normal=all_normal,
        follow_links=follow_links, publishes=True,
    )  # fmt: skip
    with stdout_to_stderr(as_json):
        report = examine(settings_of(choices), deep=deep)
    print_result(asdict(report), as_json, as_text(report))
    exit_with(report.exit_code)


# Kinds of a count, such as image sizes, shown per category.
MAX_COUNTS = 6


def as_text(report: "DoctorReport") -> str:
    """The whole report, ready to print."""
    return "\n".join(_lines(report))


def _lines(report: "DoctorReport") -> Iterator[str]:
    """The report in blocks: machine, weights, categories, what is missing."""
    state = "writable" if report.store_writable else "NOT WRITABLE"
    space = f"{report.free_gigabytes:g} GB free, at most {report.needed_gigabytes:.2f} GB needed"
    machine = f"Python {report.python}, {report.cores} cores, {report.device}"
    # Machine and store, then weights, then one block per category.
    yield table(None, [("machine", machine), ("store", f"{report.store} ({state}, {space})")], "<")
    yield "weights"
    # One row per known model file: where it is, or how to get it.
    rows = [
        (
            entry.stage,
            entry.name,
            f"{entry.path or f'missing; {entry.get}'} ({entry.megabytes:g} MB, {entry.licence})",
        )
        for entry in report.weights
    ]
    yield table(None, rows, "<", indent="  ")
    yield "categories"
    for category in report.categories:
        yield f"  {category.name}: {category.kind} at {category.root}, licence {category.licence}"
        yield table(None, list(_rows(category)), "<", indent="    ")
    if report.missing:
        yield "to fix first"
        yield from (f"  - {sentence}" for sentence in report.missing)
        return
    bad = sum(len(category.bad) for category in report.categories)
    doubts = sum(len(category.doubts) for category in report.categories)
    facts = [f"{bad} files would be skipped"] if bad else []
    facts += [f"{doubts} masks are implausible"] if doubts else []
    yield "; ".join(["ready", *facts])


def _rows(health: "CategoryHealth") -> Iterator[tuple[str, str]]:
    """Facts about one category: what about, and what."""
    if health.error:
        yield "unusable", health.error
        return
    rendered = "; rendered on the first run" if health.to_render else ""
    yield "images", _counts(health.splits) + rendered
    if not health.to_render:
        yield "sizes", f"{_counts(health.sizes)}; modes {_counts(health.modes)}"
    if health.test:
        yield "test", f"{_counts(health.test)}; {health.masks} masks"
    for stage, model in health.models.items():
        yield stage, _short(model)
    if health.tried:
        yield "tried", health.tried
    # One line per reason; the JSON has all files.
    for line in repeated((file.name, file.reason) for file in health.bad):
        yield "bad", line
    doubts = ((doubt.name, str(doubt)) for doubt in health.doubts)
    for line in repeated(doubts, "masks"):
        yield "question", line
    for note in health.notes:
        yield "note", note


def _counts(counts: Mapping[str, int]) -> str:
    """`200 train, 9 validation`; of many kinds the most common."""
    shown = [f"{count} {name}" for name, count in list(counts.items())[:MAX_COUNTS]]
    if len(counts) > MAX_COUNTS:
        shown.append(f"{len(counts) - MAX_COUNTS} other kinds")
    return ", ".join(shown) or "none"


def _short(model: str) -> str:
    """`small (/long/path/file.pth)` -> `small (file.pth)`; full paths are listed under weights."""
    # Backends without a file, such as telea, have no parenthesis.
    backend, _, path = model.partition(" (")
    return f"{backend} ({os.path.basename(path)}" if path else backend
