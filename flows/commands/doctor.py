"""`anomalysmith doctor`: check images, models, device and store before a run."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, exit_with, print_result, stdout_to_stderr
from flows.jobs.category_options import MANIFEST
from pipeline.generation.doctor import CategoryHealth, DoctorReport
from pipeline.utils.text_table import table


def doctor_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The manifest to check.  [default: data_manifest.yaml]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check what a run needs: images, sizes, masks, splits, weights, device; and what is missing.

    Exit code 2 when something must be fixed first, 3 when a run works but skips files.
    """
    from pipeline.config.manifest import read_manifest
    from pipeline.generation.doctor import inspect

    with stdout_to_stderr(as_json):
        report = inspect(read_manifest(manifest or MANIFEST))
    print_result(asdict(report), as_json, as_text(report))
    exit_with(report.exit_code)


# Bad files shown per category; all of them are in the JSON.
MAX_BAD_FILES = 10
# Kinds of a count, such as image sizes, shown per category.
MAX_COUNTS = 6


def as_text(report: DoctorReport) -> str:
    """The whole report, ready to print."""
    return "\n".join(_lines(report))


def _lines(report: DoctorReport) -> Iterator[str]:
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
    yield f"ready; {bad} files would be skipped" if bad else "ready"


def _rows(health: CategoryHealth) -> Iterator[tuple[str, str]]:
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
    # All of them would fill the screen.
    for file in health.bad[:MAX_BAD_FILES]:
        yield "bad", f"{file.name}: {file.reason}"
    if len(health.bad) > MAX_BAD_FILES:
        yield "bad", f"and {len(health.bad) - MAX_BAD_FILES} more (--json has all)"
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
