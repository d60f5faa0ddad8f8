"""`anomalysmith doctor`: what is there, what is missing, and how to get it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Json, answer, leave, quiet_output
from flows.jobs.category_options import MANIFEST
from pipeline.generation.doctor import CategoryHealth, DoctorReport


def doctor_command(
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The manifest to look at.  [default: data_manifest.yaml]"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would find: images, sizes, masks, splits, weights, device; what is missing.

    Exit code 2 when something must be mended first, 3 when a run works but leaves files out.
    """
    from pipeline.config.manifest import read_manifest
    from pipeline.generation.doctor import inspect

    with quiet_output(as_json):
        report = inspect(read_manifest(manifest or MANIFEST))
    answer(asdict(report), as_json, as_text(report))
    leave(report.exit_code)


MOST_LINES = 10
"""Bad files shown per category; all of them are in the JSON."""


def as_text(report: DoctorReport) -> str:
    """The whole report, ready to print."""
    return "\n".join(_lines(report))


def _lines(report: DoctorReport) -> Iterator[str]:
    state = "writable" if report.store_writable else "NOT WRITABLE"
    yield f"machine     Python {report.python}, {report.cores} cores, {report.device}"
    yield (
        f"store       {report.store} ({state}, {report.free_gigabytes:g} GB free, "
        f"at most {report.needed_gigabytes:.2f} GB needed)"
    )
    yield "weights"
    for entry in report.weights:
        size = f"{entry.megabytes:g} MB, {entry.licence}"
        where = entry.path or f"not here; {entry.get}"
        yield f"  {entry.stage:<11} {entry.name:<15} {where} ({size})"
    yield "categories"
    for category in report.categories:
        yield from _category(category)
    if report.missing:
        yield "to mend first"
        yield from (f"  - {sentence}" for sentence in report.missing)
        return
    bad = sum(len(category.bad) for category in report.categories)
    yield f"ready; {bad} files would be left out" if bad else "ready"


def _category(health: CategoryHealth) -> Iterator[str]:
    yield f"  {health.name}: {health.kind} at {health.root}, licence {health.licence}"
    if health.error:
        yield f"    unusable: {health.error}"
        return
    images = _counts(health.splits)
    if health.to_render:
        yield f"    images    {images}; drawn on the first run"
    else:
        yield f"    images    {images}"
        yield f"    sizes     {_counts(health.sizes)}; modes {_counts(health.modes)}"
    if health.test:
        yield f"    test      {_counts(health.test)}; {health.masks} masks"
    for stage, model in health.models.items():
        yield f"    {stage:<11}{_short(model)}"
    for file in health.bad[:MOST_LINES]:
        yield f"    bad       {file.name}: {file.reason}"
    if len(health.bad) > MOST_LINES:
        yield f"    bad       and {len(health.bad) - MOST_LINES} more (--json has all)"
    for note in health.notes:
        yield f"    note      {note}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{count} {name}" for name, count in list(counts.items())[:6]]
    if len(counts) > 6:
        shown.append(f"{len(counts) - 6} other kinds")
    return ", ".join(shown) or "none"


def _short(model: str) -> str:
    """`small (/long/path/file.pth)` -> `small (file.pth)`; full paths stand under weights."""
    backend, _, path = model.partition(" (")
    return f"{backend} ({os.path.basename(path)}" if path else backend
