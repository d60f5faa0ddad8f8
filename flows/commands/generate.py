"""`anomalysmith generate`: one dataset version per category, with a progress bar and a summary."""

import gc
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTERRUPTED,
    SKIPPED,
    AllNormal,
    FollowLinks,
    Json,
    exit_with,
    print_error,
    print_note,
    print_result,
    stdout_to_stderr,
    worst_code,
)
from flows.commands.progress_bars import ImageBar
from pipeline.errors import AnomalysmithError
from pipeline.utils.repeated import repeated
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from flows.jobs.generate import GenerateReport
    from pipeline.config.schema import CategorySettings
    from pipeline.generation.outcome import Ledger


class _Bar(ImageBar):
    """The progress bar of a command, which has its process for itself."""

    def generation_started(self, category: str, images: int, ledger: "Ledger") -> None:
        # Libraries and models stay to the end: the garbage collector need not look at their half a
        # million objects again and again.
        gc.freeze()
        super().generation_started(category, images, ledger)


@dataclass(frozen=True, slots=True)
class Part:
    """The result of one category: JSON for programs, text for people, an exit code."""

    content: Mapping[str, Any]
    text: str
    code: int


def generate_command(
    # What is read and where the versions go.
    manifest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The manifest.  [default: data_manifest.yaml]"),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this category; may be given several times."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="KIND:PATH",
            help="One folder instead of the manifest's sources: mvtec_ad, mvtec_loco, visa, btad, "
            "mpdd, retinal_oct, ok_ng or folder, a colon, the folder of one category.",
        ),
    ] = None,
    all_normal: AllNormal = False,
    follow_links: FollowLinks = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where dataset versions go.  [default: the manifest's]"),
    ] = None,
    # Which samples are generated; these options override the manifest.
    preset: Annotated[
        str | None,
        typer.Option(metavar="paper|full", help="Kinds of edits.  [default: the manifest's]"),
    ] = None,
    per_image: Annotated[
        int | None, typer.Option(metavar="N", help="Anomalous samples to aim for per image.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the first N good images by name.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Random seed.")] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Decisions about versions of the category: what was rejected is replaced.  "
            "[default: the manifest's]",
        ),
    ] = None,
    other_products: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Good images of other products, which may lie where a part should be.  "
            "[default: the manifest's other categories]",
        ),
    ] = None,
    # How it is run.
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Images processed at once; does not change the result.  "
            "[default: the CPUs that other programs leave free]",
        ),
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="PX|HxW", help="Size at which images are stored.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda", help="Where the models run.")
    ] = None,
    inpaint: Annotated[
        str | None,
        typer.Option(
            metavar="BACKEND",
            help="Inpainting backend: auto, lama, candidates, patchmatch, small_lama, "
            "lama_cleaner, telea, ns or remote (a server that the manifest names).",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be done; do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Generate labelled logical anomalies from good images and publish them as dataset versions.

    A run that was killed continues where it stopped; a run that was finished before is served from
    the cache. Exit code 3: a version was published, but some input files could not be used.
    """
    from flows.jobs.category_options import Choices, settings_of

    # Options override the manifest in the settings of every category.
    choices = Choices(
        manifest=manifest, categories=category or (), source=source, store=store, preset=preset,
        per_image=per_image, seed=seed, image_size=image_size, device=device, inpaint=inpaint,
        follow_links=follow_links, reviews=reviews, other_products=other_products,
        all_normal=all_normal, publishes=True,
    )  # fmt: skip
    parts: list[Part] = []
    with stdout_to_stderr(as_json):
        # One category after another; each publishes its own version.
        for settings in settings_of(choices):
            try:
                part = _preview(settings, limit) if dry_run else _run(settings, limit, workers)
            except AnomalysmithError as error:
                # The other categories go on.
                print_error(error)
                content = {"category": settings.name, "error": str(error)}
                part = Part(content, "", error.exit_code)
            except KeyboardInterrupt:
                print_note("\ninterrupted: finished images are kept, the same command continues")
                exit_with(INTERRUPTED)
            parts.append(part)
    contents: dict[str, Any] = {"categories": [dict(part.content) for part in parts]}
    # Of a single category, programs find the facts at the top as well.
    if len(parts) == 1:
        contents = {**parts[0].content, **contents}
    print_result(contents, as_json, "\n\n".join(part.text for part in parts if part.text))
    exit_with(worst_code([part.code for part in parts]))


def _run(settings: "CategorySettings", limit: int | None, workers: int | None) -> Part:
    """Generate one category with a progress bar."""
    from flows.jobs.generate import generate

    report = generate(settings, limit=limit, workers=workers, watcher=_Bar())
    # A version without anomalies is valid, but hardly what was meant.
    if not report.anomalous and settings.edits.per_image:
        print_note(
            f"{report.category}: NO ANOMALY was accepted; rejection reasons are counted below, "
            + why_none(report.version_dir)
        )
    return Part(report.to_json(), as_text(report), SKIPPED if report.failures else DONE)


def why_none(folder: Path) -> str:
    """The command that explains a rejected anomaly, if the version has kept one."""
    from pipeline.dataset.version import open_version

    rejects = open_version(folder).rejects
    # A rejected control says nothing about anomalies.
    places = [j for j in range(rejects.samples) if rejects.label(j)] if rejects else []
    if rejects is None or not places:
        return "and no rejected anomaly was kept: none could be planned, or the manifest keeps none"
    name = rejects.record(places[0])["id"]
    words = shlex.join(["anomalysmith", "gate", "--explain", name, "--version", str(folder)])
    return f"and `{words}` shows every check of one rejected anomaly"


def _preview(settings: "CategorySettings", limit: int | None) -> Part:
    """What a run of one category would do."""
    from flows.jobs.generate_preview import preview, preview_text

    content = preview(settings, limit)
    return Part(content, preview_text(content), DONE)


def as_text(report: "GenerateReport") -> str:
    """A run in words and small tables."""
    # Kinds first, then the reasons of rejected attempts, the most frequent first.
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
        lines += ["", table(("rejection reason", "attempts"), reasons)]
    # Where the result is, and what was left out.
    facts = [("version", report.version_dir), ("digest", report.digest)]
    facts += [("gallery", report.gallery)] if report.gallery else []
    if report.failures:
        facts.append(("skipped", f"{len(report.failures)} inputs that could not be used:"))
        facts += [("", line) for line in repeated((f["name"], f["error"]) for f in report.failures)]
    return "\n".join([*lines, "", table(None, facts, "<")])
