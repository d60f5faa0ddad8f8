"""`anomalysmith generate`: one dataset version per category, with a bar and a summary."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    Json,
    answer,
    complain,
    in_words,
    leave,
    quiet_output,
    remark,
    table,
    worst,
)
from flows.commands.progress_bars import ImageBar
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.generate import GenerateReport, generate
from pipeline.config.schema import CategorySettings
from pipeline.errors import AnomalysmithError
from pipeline.sources.layouts.registry import LAYOUTS


@dataclass(frozen=True, slots=True)
class Part:
    """What became of one category: JSON for programs, text for people, an exit code."""

    content: Mapping[str, Any]
    text: str
    code: int


def generate_command(
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What to read and make.  [default: data_manifest.yaml]"),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this category; may be given several times."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:PATH",
            help="One folder in place of the manifest's sources: "
            f"{in_words(LAYOUTS, 'or')}, a colon, the folder of one category.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where dataset versions go.  [default: the manifest's]"),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(metavar="paper|full", help="Kinds of edits.  [default: the manifest's]"),
    ] = None,
    per_image: Annotated[
        int | None, typer.Option(metavar="N", help="Anomalous samples wanted per image.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N good images by name.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Root of every choice.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images in work at once; changes nothing but the time.  "
            "[default: the number of CPUs]",
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="PX|HxW", help="Stored size of the images.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the models run.")
    ] = None,
    inpaint: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND",
            help="What fills holes: auto, lama, lama_cleaner, small_lama, telea, ns or remote "
            "(a server that the manifest names).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Forge labelled logical anomalies out of good images and publish them as dataset versions.

    A run that was killed goes on where it stopped; a run that was done before is served from the
    cache. Exit code 3 says that a version was published, but some input files could not be used.
    """
    choices = Choices(
        manifest=manifest, categories=category or (), source=source, store=store, preset=preset,
        per_image=per_image, seed=seed, image_size=image_size, device=device, inpaint=inpaint,
    )  # fmt: skip
    parts: list[Part] = []
    with quiet_output(as_json):
        for settings in settings_of(choices):
            try:
                part = _preview(settings, limit) if dry_run else _run(settings, limit, workers)
            except AnomalysmithError as error:  # the other categories go on
                complain(error)
                content = {"category": settings.name, "error": str(error)}
                part = Part(content, "", error.exit_code)
            except KeyboardInterrupt:
                remark("\ninterrupted: finished images are kept, the same command goes on")
                leave(INTERRUPTED)
            parts.append(part)
    contents: dict[str, Any] = {"categories": [dict(part.content) for part in parts]}
    if len(parts) == 1:
        contents = {**parts[0].content, **contents}
    answer(contents, as_json, "\n\n".join(part.text for part in parts if part.text))
    leave(worst([part.code for part in parts]))


def _run(settings: CategorySettings, limit: int | None, workers: int | None) -> Part:
    report = generate(settings, limit=limit, workers=workers, watcher=ImageBar())
    if not report.anomalous and settings.edits.per_image:
        remark(
            f"{report.category}: NO ANOMALY was accepted; the reasons are counted below, "
            "`anomalysmith gate --explain` goes through one refusal"
        )
    return Part(report.to_json(), as_text(report), SKIPPED if report.failures else DONE)


def _preview(settings: CategorySettings, limit: int | None) -> Part:
    from flows.jobs.generate_preview import preview, preview_text

    content = preview(settings, limit)
    return Part(content, preview_text(content), DONE)


def as_text(report: GenerateReport) -> str:
    """A run in words and two small tables."""
    how = "published before, nothing to do" if report.cached else f"{report.seconds:.1f} s"
    lines = [
        f"{report.category}: {report.accepted} samples from {report.images} images ({how})",
        table(
            ("kind", "attempted", "accepted"),
            [(kind, report.attempted_by_kind[kind], n) for kind, n in report.by_kind.items()],
        ),
    ]
    if report.rejected:
        reasons = sorted(report.rejected.items(), key=lambda item: (-item[1], item[0]))
        lines += ["", table(("refused because", "attempts"), reasons)]
    lines += ["", f"version  {report.version_dir}", f"digest   {report.digest}"]
    if report.gallery:
        lines.append(f"gallery  {report.gallery}")
    if report.failures:
        lines.append(f"skipped  {len(report.failures)} inputs that could not be used:")
        lines += [f"         {failure['name']}: {failure['error']}" for failure in report.failures]
    return "\n".join(lines)
