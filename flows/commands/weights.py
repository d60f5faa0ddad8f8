"""`anomalysmith weights list | verify | pull | bundle`: model files; only `pull` downloads."""

from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer

from flows.commands.console import (
    DONE,
    INTEGRITY_ERROR,
    Json,
    exit_with,
    print_error,
    print_result,
    stdout_to_stderr,
)
from flows.commands.progress_bars import counting
from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights
from pipeline.utils.text_table import table

weights_app = typer.Typer(
    help="List, check, download or bundle model files.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# Characters per line of `weights list`; long paths lose their beginning.
WIDTH = 120


@weights_app.command("list")
def list_command(as_json: Json = False) -> None:
    """List every known model file: purpose, size, licence, whether it is present, and where."""
    rows = [_row(entry) for entry in weights.entries()]
    content = {"weights": rows, "folders": [str(folder) for folder in weights.folders()]}
    print_result(content, as_json, _listing(rows))


@weights_app.command("verify")
def verify_command(as_json: Json = False) -> None:
    """Compare every model file that is present with its publisher's digest and with its pin.

    A file without a pin is pinned. Exit code 4 if a file has changed; missing files are no error.
    """
    rows: list[dict[str, Any]] = []
    with stdout_to_stderr(as_json):
        for entry in weights.entries():
            path = weights.find(entry.name)
            # A missing file is no error.
            if path is None:
                continue
            # Checked against the publisher's digest and the pin.
            try:
                pinned = weights.check_and_pin(entry.name, path)
                note = "" if pinned else "its folder cannot be written to, so it is not pinned"
                rows.append(_row(entry) | {"ok": True, "problem": "", "note": note})
            except WeightsError as error:
                print_error(error)
                rows.append(_row(entry) | {"ok": False, "problem": str(error), "note": ""})
    ok = all(row["ok"] for row in rows)
    lines = [
        (
            "ok" if row["ok"] else "BROKEN",
            row["name"],
            row["path"],
            f"({row['digest']})" + (f"; {row['note']}" if row["note"] else ""),
        )
        for row in rows
    ]
    text = table(None, lines, "<") or "no weights were found"
    print_result({"ok": ok, "weights": rows}, as_json, text)
    exit_with(DONE if ok else INTEGRITY_ERROR)


@weights_app.command("pull")
def pull_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]",
            help="Names as `weights list` shows them; without any, the small default set.",
        ),
    ] = None,
) -> None:
    """Download model files, check their digests and pin them.

    They come from their publishers, or with pip from the package index that it is set up for. An
    interrupted download from a publisher continues when the command is run again.
    """
    from pipeline.models.weights.catalog import DEFAULT
    from pipeline.models.weights.download import pull, pullable

    names = names or list(DEFAULT)
    # All names first: a typo in the last one should not show after an hour of downloads.
    for name in names:
        pullable(name)
    for name in names:
        with counting(name, "B", unit_scale=True) as show:
            path = pull(name, show)
        typer.echo(str(path))


@weights_app.command("bundle")
def bundle_command(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Folder for the files; created if it does not exist."),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Manifest with the models.  [default: data_manifest.yaml]"
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
            help="Also this entry, such as that of a detector; may be given several times.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be copied; copy nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy all model files that a manifest needs into one folder, for a machine without a network.

    There, set ANOMALYSMITH_WEIGHTS=DIR. After an interruption the same command continues; complete
    files are kept.
    """
    from flows.jobs.category_options import MANIFEST, Choices, settings_of
    from pipeline.generation.offline_bundle import plan_bundle, write_bundle

    with stdout_to_stderr(as_json):
        # Find all files first: a missing one should not show after the first gigabytes.
        choices = Choices(manifest=manifest or MANIFEST, categories=category or ())
        plan = plan_bundle(settings_of(choices), extra or ())
        copied: list[str] = []
        if not dry_run:
            with counting(f"bundle {folder.name}", "B", unit_scale=True) as show:
                copied = write_bundle(plan, folder, show)
    # What was, or would be, copied, and from where.
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
    print_result(content, as_json, _bundle_text(content))


def _row(entry: weights.WeightsEntry) -> dict[str, Any]:
    """One entry of the registry as JSON, with the state of its file here."""
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
        # As stated by the publisher.
        "digest": entry.known,
        # Bundled, present or missing.
        "state": weights.state(entry.name),
        "path": str(path) if path else None,
        "url": entry.url,
        "package": entry.package.requirement if entry.package else "",
        "get": entry.get,
    }


def _listing(rows: list[dict[str, Any]]) -> str:
    """The table, then how to get what is missing, and terms beyond the name of a licence."""
    head = ("name", "for", "MB", "licence", "state", "path")
    cells = [
        (
            row["name"], row["for"], f"{row['megabytes']:g}", row["licence"], row["state"],
            row["path"] or "-",
        )
        for row in rows
    ]  # fmt: skip
    lines = [table(head, cells, "<<><", width=WIDTH)]
    notes = [f"searched {weights.BUNDLED}, {', '.join(map(str, weights.folders()))}"]
    missing = [row for row in rows if row["state"] == "missing"]
    own = [row for row in missing if not (row["url"] or row["package"])]
    if len(missing) > len(own):
        notes.append("missing files: anomalysmith weights pull NAME...")
    # Files that nobody offers for download: their entry tells how to get them.
    notes += [f"{row['name']}: {row['get']}" for row in own]
    # Entries with the same terms share one note.
    for terms in dict.fromkeys(row["terms"] for row in rows if row["terms"]):
        names = ", ".join(row["name"] for row in rows if row["terms"] == terms)
        notes.append(f"{names}: {terms}")
    # Notes are wrapped like paragraphs.
    for note in notes:
        lines += ["", *wrap(note, WIDTH, break_long_words=False, break_on_hyphens=False)]
    return "\n".join(lines)


def _bundle_text(content: dict[str, Any]) -> str:
    """A bundle as text: every file, the total, and how to use it."""
    # A dry run and a real one differ in their verbs only.
    size = f"{content['bytes'] / 1e6:.1f} MB"
    if content["dry_run"]:
        verbs = ["would copy"] * len(content["files"])
        end = f"{size} for {content['folder']}; nothing was copied"
    else:
        verbs = ["copied" if file["copied"] else "kept" for file in content["files"]]
        end = f"{size} in {content['folder']}; use: ANOMALYSMITH_WEIGHTS={content['folder']}"
    # One line per file, then the total.
    names = [file["file"] for file in content["files"]]
    text = table(None, list(zip(verbs, names, strict=True)), "<")
    lines = [text or "nothing to copy: these settings use bundled models only", end]
    if content["builtin"]:
        lines.append(f"from the program itself: {', '.join(content['builtin'])}")
    return "\n".join(lines)
