"""`anomalysmith gc`: delete what no published version of a store needs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, print_note, print_result, stdout_to_stderr
from pipeline.utils.text_table import table


def gc_command(
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The store to clean.  [default: the manifest's]"),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Manifest that names the store, without --store.  [default: data_manifest.yaml]",
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(metavar="DAYS", min=0, help="Only files written at least so long ago."),
    ] = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be deleted; delete nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete cache entries that no published version needs, and what killed runs left behind.

    Versions and anything that a run is using are never touched. Finished images of an interrupted
    run belong to no version yet and are deleted, too, unless --older-than spares them; the same
    command would generate them again. An entry is needed if `generate` on this machine, with its
    code, libraries and kind of device, would read it.
    """
    from pipeline.generation.gc import sweep

    with stdout_to_stderr(as_json):
        folder = store or _store_of(manifest)
        swept = sweep(folder, dry_run=dry_run, older_than=older_than)
    # What was left alone goes to standard error.
    for line in swept.notes:
        print_note(f"note: {line}")
    kinds = sorted({orphan.kind for orphan in swept.orphans})
    total = sum(orphan.bytes for orphan in swept.orphans)
    # The paths are listed in a dry run only: afterwards they are gone.
    content: dict[str, Any] = {
        "store": str(folder.resolve()),
        "dry_run": dry_run,
        "leftovers": {kind: swept.count(kind)[0] for kind in kinds},
        "bytes": total,
        "kept": swept.kept,
        "kept_bytes": swept.kept_bytes,
        "notes": list(swept.notes),
    }
    if dry_run:
        content["paths"] = [str(orphan.path) for orphan in swept.orphans]
    # A dry run lists the paths, both print the totals by kind.
    lines = content.get("paths", [])
    if kinds:
        rows = [(kind, n, _size(size)) for kind in kinds for n, size in [swept.count(kind)]]
        lines = [*lines, table(("what", "count", "size"), rows)]
    # The same text for both, but for the verb.
    verb = "would free" if dry_run else "freed"
    lines = [*lines, f"{verb} {_size(total)} in {folder}"]
    lines.append(
        f"kept {swept.kept} cache entries of published versions, {_size(swept.kept_bytes)}"
    )
    print_result(content, as_json, "\n".join(lines))


def _store_of(manifest: Path | None) -> Path:
    from flows.jobs.category_options import Choices, settings_of

    return settings_of(Choices(manifest=manifest))[0].store


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
