"""`anomalysmith weights list | verify | pull | bundle`: model files; `pull` alone downloads."""

from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer

from flows.commands.console import BROKEN, DONE, Json, answer, complain, leave, quiet_output
from flows.commands.progress_bars import counting
from flows.jobs.category_options import MANIFEST, Choices, settings_of
from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights

weights_app = typer.Typer(
    help="List, check, fetch or bundle the model files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

WIDTH = 120
"""Columns that the table of `weights list` keeps to; long paths lose their beginning."""


@weights_app.command("list")
def list_command(as_json: Json = False) -> None:
    """List every known model file: what for, size, licence, whether it is here, and where."""
    rows = [_row(entry) for entry in weights.entries()]
    content = {"weights": rows, "folders": [str(folder) for folder in weights.folders()]}
    answer(content, as_json, _listing(rows))


@weights_app.command("verify")
def verify_command(as_json: Json = False) -> None:
    """Compare every model file that is here with its publisher's digest and with its pin.

    A file without a pin gets one. Exit code 4 when a file is not what it was; a missing file is no
    fault.
    """
    rows: list[dict[str, Any]] = []
    with quiet_output(as_json):
        for entry in weights.entries():
            path = weights.find(entry.name)
            if path is None:
                continue
            try:
                pinned = weights.settle(entry.name, path)
                note = "" if pinned else "its folder cannot be written to, so it is not pinned"
                rows.append(_row(entry) | {"ok": True, "problem": "", "note": note})
            except WeightsError as error:
                complain(error)
                rows.append(_row(entry) | {"ok": False, "problem": str(error), "note": ""})
    ok = all(row["ok"] for row in rows)
    lines = [
        f"{'ok    ' if row['ok'] else 'BROKEN'}  {row['name']}  {row['path']}  ({row['digest']})"
        + (f"; {row['note']}" if row["note"] else "")
        for row in rows
    ]
    answer({"ok": ok, "weights": rows}, as_json, "\n".join(lines) or "no weights were found")
    leave(DONE if ok else BROKEN)


@weights_app.command("pull")
def pull_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names as `weights list` shows them."),
    ],
) -> None:
    """Fetch model files from their publishers, check their digests and pin them.

    A broken download goes on where it ended when the command is given again.
    """
    from pipeline.models.weights.download import pull, pullable

    for name in names:  # all names first: a slip should not cost half a download
        pullable(name)
    for name in names:
        with counting(name, "B", unit_scale=True) as show:
            path = pull(name, show)
        typer.echo(str(path))


@weights_app.command("bundle")
def bundle_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Where the files go; made if it is not there."),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Whose models are wanted.  [default: data_manifest.yaml]"
        ),
    ] = None,
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this category; may be given several times."),
    ] = None,
    extra: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="NAME",
            help="This entry as well, such as a detector's; may be given several times.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be copied; copy nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy everything a manifest needs into one folder, for a machine without a network.

    There, ANOMALYSMITH_WEIGHTS=DIR is all that is needed. The same command goes on after a stop;
    whole files are kept.
    """
    from pipeline.generation.offline_bundle import plan_bundle, write_bundle

    with quiet_output(as_json):
        choices = Choices(manifest=manifest or MANIFEST, categories=category or ())
        plan = plan_bundle(settings_of(choices), extra or ())
        copied: list[str] = []
        if not dry_run:
            with counting(f"bundle {folder.name}", "B", unit_scale=True) as show:
                copied = write_bundle(plan, folder, show)
    files = [
        {"file": file.place, "bytes": file.size, "sha256": file.sha256, "from": str(file.source)}
        | {"name": file.entry.name if file.entry else None, "copied": file.place in copied}
        for file in plan.files
    ]
    content = {
        "folder": str(folder),
        "bytes": plan.size,
        "files": files,
        "builtin": list(plan.builtin),
        "dry_run": dry_run,
    }
    answer(content, as_json, _bundle_text(content))


def _row(entry: weights.WeightsEntry) -> dict[str, Any]:
    path = weights.find(entry.name)
    return {
        "name": entry.name,
        "for": entry.purpose,
        "stage": entry.stage,
        "file": entry.file,
        "format": entry.format,
        "megabytes": entry.megabytes,
        "licence": entry.licence,
        "commercial": entry.commercial,
        "terms": entry.terms,
        "digest": entry.known,
        "state": weights.state(entry.name),
        "path": str(path) if path else None,
        "url": entry.url,
        "get": entry.get,
    }


def _listing(rows: list[dict[str, Any]]) -> str:
    """The table, then how to get what is missing and what a licence's name does not say."""
    head = ("name", "for", "MB", "licence", "state")
    cells = [
        (row["name"], row["for"], f"{row['megabytes']:g}", row["licence"], row["state"])
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    room = WIDTH - sum(widths) - 2 * len(widths)
    paths = ["path", *(_shortened(row["path"] or "-", room) for row in rows)]
    lines = []
    for (name, purpose, size, licence, state), path in zip((head, *cells), paths, strict=True):
        left = f"{name:<{widths[0]}}  {purpose:<{widths[1]}}  {size:>{widths[2]}}"
        lines.append(f"{left}  {licence:<{widths[3]}}  {state:<{widths[4]}}  {path}")
    lines.insert(1, "-" * max(map(len, lines)))
    notes = [f"looked in {weights.BUNDLED}, {', '.join(map(str, weights.folders()))}"]
    if any(row["state"] == "missing" and row["url"] for row in rows):
        notes.append("missing files: anomalysmith weights pull NAME...")
    own = [row for row in rows if row["state"] == "missing" and not row["url"]]
    notes += [f"{row['name']}: {row['get']}" for row in own]
    for terms in dict.fromkeys(row["terms"] for row in rows if row["terms"]):
        names = ", ".join(row["name"] for row in rows if row["terms"] == terms)
        notes.append(f"{names}: {terms}")
    for note in notes:
        lines += ["", *wrap(note, WIDTH, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(lines)


def _shortened(path: str, room: int) -> str:
    return path if len(path) <= room else "…" + path[len(path) + 1 - room :]


def _bundle_text(content: dict[str, Any]) -> str:
    size = f"{content['bytes'] / 1e6:.1f} MB"
    if content["dry_run"]:
        lines = [f"would copy  {file['file']}" for file in content["files"]]
        lines.append(f"{size} for {content['folder']}; nothing was copied")
    else:
        lines = [
            f"{'copied' if file['copied'] else 'kept  '}  {file['file']}"
            for file in content["files"]
        ]
        lines.append(
            f"{size} in {content['folder']}; use: ANOMALYSMITH_WEIGHTS={content['folder']}"
        )
    if not content["files"]:
        lines.insert(0, "nothing to copy: these settings use bundled models only")
    if content["builtin"]:
        lines.append(f"from the program itself: {', '.join(content['builtin'])}")
    return "\n".join(lines)
