"""`anomalysmith gate --explain SAMPLE`: every rule of the gate on one stored sample, in words."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import Json, answer, quiet_output, remark, table
from flows.jobs.category_options import Choices, settings_of
from pipeline.dataset.version import Version, latest, open_version
from pipeline.errors import UserError
from pipeline.reports.sample import find_sample

if TYPE_CHECKING:
    from pipeline.generation.explain import Found


def gate_command(
    explain: Annotated[
        str,
        typer.Option(
            "--explain",
            metavar="SAMPLE",
            help="Its id as the gallery shows it (train/good/000.png@2.0), accepted or kept "
            "reject; or, with --version, its number from 0.",
            show_default=False,
        ),
    ],
    version: Annotated[
        Path | None,
        typer.Option(
            metavar="VERSION_DIR",
            help="The version that holds it.  [default: the newest ones of the store]",
        ),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Whose store, without --store.  [default: data_manifest.yaml]"
        ),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to look.  [default: the manifest's]"),
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
    """Measure a stored sample again and say what every rule of the gate makes of it.

    Scores come from the stored pixels, so versions of older releases can be explained as well;
    where a score differs from the recorded one, both are shown. Limits are those of the version's
    settings; a calibrated one was learned from the version's own normals.
    """
    from pipeline.generation.explain import explanation, heat_picture

    with quiet_output(as_json):
        found = find(explain, version, manifest, store)
        told = explanation(found)
        if picture is not None:
            from PIL import Image

            Image.fromarray(heat_picture(found, told)).save(picture, format="PNG")
    answer(told.content, as_json, _text(told.content))
    if picture is not None:
        remark(f"original | edited | change mask | distance: {picture}")


def find(
    wanted: str, version_dir: Path | None, manifest: Path | None, store: Path | None
) -> "Found":
    """The sample of that id in a version, or in the newest version of any category of a store."""
    from pipeline.generation.explain import Found

    if version_dir is not None:
        version = open_version(version_dir)
        return Found(version, find_sample(version, wanted))
    if wanted.isdecimal():
        raise UserError(f"sample {wanted}: a number needs --version; or give the sample's whole id")
    newest = _newest(manifest, store)
    found = []
    for version in newest:
        try:
            found.append(Found(version, find_sample(version, wanted)))
        except UserError:
            continue
    if len(found) == 1:
        return found[0]
    if not found:
        looked = ", ".join(str(version.dir) for version in newest) or "no version at all"
        raise UserError(f"no sample {wanted!r} in the newest versions ({looked}); name --version")
    names = ", ".join(str(one.version.dir) for one in found)
    raise UserError(f"sample {wanted!r} is in several versions; name one by --version: {names}")


def _newest(manifest: Path | None, store: Path | None) -> list[Version]:
    if store is not None:
        if not store.is_dir():
            raise UserError(f"there is no store {store}; name the folder that generate writes to")
        homes = [path for path in sorted(store.iterdir()) if path.is_dir() and path.name[0] != "."]
        places = [(store, home.name) for home in homes]
    else:
        wished = settings_of(Choices(manifest=manifest))
        places = [(settings.store, settings.name) for settings in wished]
    return [version for place in places if (version := latest(*place)) is not None]


def _text(content: dict[str, Any]) -> str:
    head = f"{content['id']}: {content['kind']}, in {content['version_dir']}"
    then = "accepted" if content["recorded"]["accepted"] else content["recorded"]["reason"]
    now = "accepted" if content["accepted"] else content["reason"]
    verdict = f"recorded: {then}; by today's rules: {now}"
    rows = [
        (
            row["reason"] + (f" ({row['edit']})" if row["edit"] else ""),
            row["score"],
            f"{row['value']:.4g}",
            _limit(row),
            row["origin"] if row["limit"] is not None else "",
            "passed" if row["passed"] else "REFUSED",
        )
        for row in content["rules"]
    ]
    parts = [head, verdict, "", table(("rule", "score", "value", "limit", "from", ""), rows), ""]
    parts += [f"{row['reason']}: {row['said']}" for row in content["rules"] if not row["passed"]]
    parts += [
        f"note: {name} is recorded as {pair['recorded']:.4g}, and measured now as "
        f"{pair['measured']:.4g}"
        for name, pair in content["differs"].items()
    ]
    parts += [f"note: {note}" for note in content["notes"]]
    return "\n".join(parts)


def _limit(row: dict[str, Any]) -> str:
    if row["limit"] is None:
        return "silent"
    return f"{'<=' if row['refused_when'] == 'above' else '>='} {row['limit']:.4g}"
