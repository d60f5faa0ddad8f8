"""`anomalysmith gate`: every check of the gate on one sample, or limits learned from a review."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    Json,
    is_standard_output,
    print_note,
    print_result,
    stdout_to_stderr,
    write_output,
)
from pipeline.errors import UserError
from pipeline.utils.text_table import table

if TYPE_CHECKING:
    from pipeline.dataset.version import Version
    from pipeline.generation.explain import FoundSample
    from pipeline.review.suggest import Suggestions


def gate_command(
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain",
            metavar="SAMPLE",
            help="Id of an accepted or rejected sample, as shown in the gallery "
            "(train/good/000.png@2.0); or, with --version, its number from 0.",
        ),
    ] = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest",
            help="Limits that would have rejected what reviewers of --version rejected.",
        ),
    ] = False,
    version: Annotated[
        Path | None,
        typer.Option(
            metavar="VERSION_DIR",
            help="The version with the sample.  [default: the newest of each category]",
        ),
    ] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --suggest: decisions about the version.  [default: "
            "VERSION_DIR.reviews.jsonl]",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Manifest that names the store, without --store.  [default: data_manifest.yaml]",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Store to search.  [default: the manifest's]"),
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also write original | edited | mask | distance to patches of normals, as PNG.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a stored sample again and show every check of the gate, or suggest limits for it.

    Scores are computed from the stored pixels, so versions of older releases can be explained as
    well; where a score differs from the recorded one, both are shown. Limits are those of the
    version's settings; calibrated limits were learned from the version's own normals. --suggest
    prints lines for the manifest and changes nothing.
    """
    if suggest == (explain is not None):
        raise UserError("gate takes either --explain SAMPLE or --suggest")
    if suggest:
        _suggest(version, reviews, as_json)
    elif reviews is not None:
        raise UserError("--reviews goes with --suggest; leave it out")
    elif explain is not None:
        _explain(explain, version, manifest, store, picture, as_json)


def _explain(
    explain: str,
    version: Path | None,
    manifest: Path | None,
    store: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    from pipeline.generation.explain import explain as explain_sample
    from pipeline.generation.explain import heat_image

    aside = is_standard_output(picture, as_json)
    # Loading the teacher may print.
    with stdout_to_stderr(as_json):
        found = find(explain, version, manifest, store)
        explained = explain_sample(found)
        if picture is not None:
            import io

            from PIL import Image

            image = io.BytesIO()
            Image.fromarray(heat_image(found, explained)).save(image, format="PNG")
    if picture is not None:
        write_output(picture, image.getvalue())
    print_result(explained.content, as_json, _text(explained.content), aside=aside)
    if picture is not None and not aside:
        print_note(f"original | edited | change mask | distance: {picture}")


def _suggest(folder: Path | None, reviews: Path | None, as_json: bool) -> None:
    from pipeline.dataset.version import open_version
    from pipeline.review.about import reviews_of
    from pipeline.review.log import review_log
    from pipeline.review.suggest import suggest

    if folder is None:
        raise UserError("--suggest needs the version that was reviewed; name it by --version")
    with stdout_to_stderr(as_json):
        version = open_version(folder)
        found = suggest(version, reviews_of(version, reviews or review_log(folder).path))
    print_result(found.to_json(), as_json, _limits_text(found))


def _limits_text(found: "Suggestions") -> str:
    """A table of limits, the best first, then the lines for the manifest."""
    rows = [
        (
            row.check.limit, "none" if row.now is None else f"{row.now:.4g}", f"{row.value:g}",
            f"{row.caught} of {found.rejected}", f"{row.wrongly} of {found.kept}",
            f"{row.precision:.2f}", f"{row.recall:.2f}",
            f"{row.tested_precision:.2f}", f"{row.tested_recall:.2f}",
            "suggested" if row.pasted else "",
        )
        for row in found.rows
    ]  # fmt: skip
    head = ("limit", "now", "new", "rejected", "of kept", "precision", "recall", "tested", "", "")
    lines = [
        f"{found.rejected} reviewed samples are rejected, {found.kept} kept. What limits would "
        "have done:",
        "",
        table(head, rows),
        "",
        "tested: precision and recall on samples that the limit was not chosen on",
    ]
    if not found.lines:
        return "\n".join([*lines, "", "no limit tells them apart better than chance would"])
    return "\n".join(
        [
            *lines,
            f"together, the suggested limits reject {found.recall:.0%} of what was rejected; "
            f"{found.precision:.0%} of what they reject was rejected",
            "",
            "for the manifest, if you agree:",
            "",
            found.lines.rstrip(),
        ]
    )


def find(
    wanted: str, version_dir: Path | None, manifest: Path | None, store: Path | None
) -> "FoundSample":
    """The sample of that id in a version, or in the newest version of any category of a store."""
    from pipeline.dataset.version import open_version
    from pipeline.generation.explain import FoundSample
    from pipeline.reports.sample import find_sample

    # A version is named: an id or a number identifies the sample.
    if version_dir is not None:
        version = open_version(version_dir)
        return FoundSample(version, find_sample(version, wanted))
    # Numbers count the samples of one version.
    if wanted.isdecimal():
        raise UserError(
            f"sample {wanted}: a number needs --version; name a version, or the sample's full id"
        )
    # Search the newest version of each category for the id.
    newest = _newest(manifest, store)
    found = []
    for version in newest:
        try:
            found.append(FoundSample(version, find_sample(version, wanted)))
        except UserError:
            continue
    # Ids are unique inside a category only, so several versions may have this one.
    if len(found) == 1:
        return found[0]
    if not found:
        # The versions that were searched, as the sample may be in an older one.
        looked = ", ".join(str(version.dir) for version in newest) or "there are none"
        raise UserError(f"no sample {wanted!r} in the newest versions ({looked}); name --version")
    names = ", ".join(str(one.version.dir) for one in found)
    raise UserError(f"sample {wanted!r} is in several versions; name one by --version: {names}")


def _newest(manifest: Path | None, store: Path | None) -> "list[Version]":
    """The newest version of each category of a store, or of the manifest's categories."""
    from flows.jobs.category_options import Choices, settings_of
    from pipeline.dataset.version import latest

    # A store that is named is searched whole, else the categories of the manifest.
    if store is not None:
        if not store.is_dir():
            raise UserError(f"there is no store {store}; name the folder that `generate` writes to")
        homes = [path for path in sorted(store.iterdir()) if path.is_dir() and path.name[0] != "."]
        places = [(store, home.name) for home in homes]
    else:
        categories = settings_of(Choices(manifest=manifest))
        places = [(settings.store, settings.name) for settings in categories]
    return [version for place in places if (version := latest(*place)) is not None]


def _text(content: dict[str, Any]) -> str:
    """Verdicts, a table of all checks, the failed ones in words, notes."""
    head = f"{content['id']}: {content['kind']}, in {content['version_dir']}"
    # The recorded verdict and the present one, then every check behind the present one.
    then = "accepted" if content["recorded"]["accepted"] else content["recorded"]["reason"]
    now = "accepted" if content["accepted"] else content["reason"]
    verdict = f"recorded: {then}; judged now: {now}"
    # One row per check: score, value, limit, where the limit comes from, result.
    rows = [
        (
            row["reason"] + (f" ({row['edit']})" if row["edit"] else ""),
            row["score"],
            f"{row['value']:.4g}",
            _limit(row),
            row["origin"] if row["limit"] is not None else "",
            "passed" if row["passed"] else "FAILED",
        )
        for row in content["rules"]
    ]
    parts = [head, verdict, "", table(("rule", "score", "value", "limit", "from", ""), rows), ""]
    # Failed checks in words; passed ones are in the table.
    parts += [f"{row['reason']}: {row['said']}" for row in content["rules"] if not row["passed"]]
    parts += [
        f"note: {name} was recorded as {pair['recorded']:.4g}, now it measures "
        f"{pair['measured']:.4g}"
        for name, pair in content["differs"].items()
    ]
    parts += [f"note: {note}" for note in content["notes"]]
    return "\n".join(parts)


def _limit(row: dict[str, Any]) -> str:
    """The range in which a sample passes."""
    if row["limit"] is None:
        return "none"
    return f"{'<=' if row['refused_when'] == 'above' else '>='} {row['limit']:.4g}"
