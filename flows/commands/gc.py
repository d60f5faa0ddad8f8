"""`anomalysmith gc`: free what no published version of a store needs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Json, answer, quiet_output, remark, table


def gc_command(
    store: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The store to sweep.  [default: the manifest's]"),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Whose store, without --store.  [default: data_manifest.yaml]"
        ),
    ] = None,
    older_than: Annotated[
        float,
        typer.Option(metavar="DAYS", min=0, help="Only what was written at least so long ago."),
    ] = 0.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would go, and take nothing away.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take away cache entries that no published version needs, and what killed runs left.

    Versions are never touched, nor anything that a run is using. The finished images of a run that
    was interrupted belong to no version yet and go too, unless --older-than spares them; the same
    command would forge them again. An entry counts as needed when generate on this machine, with
    its code, libraries and kind of device, would ask for it.
    """
    from pipeline.generation.gc import sweep

    with quiet_output(as_json):
        folder = store or _store_of(manifest)
        swept = sweep(folder, dry_run=dry_run, older_than=older_than)
    for line in swept.remarks:
        remark(f"note: {line}")
    kinds = sorted({leftover.kind for leftover in swept.leftovers})
    total = sum(leftover.bytes for leftover in swept.leftovers)
    content: dict[str, Any] = {
        "store": str(folder.resolve()),
        "dry_run": dry_run,
        "leftovers": {kind: swept.count(kind)[0] for kind in kinds},
        "bytes": total,
        "kept": swept.kept,
        "kept_bytes": swept.kept_bytes,
        "notes": list(swept.remarks),
    }
    if dry_run:
        content["paths"] = [str(leftover.path) for leftover in swept.leftovers]
    lines = content.get("paths", [])
    if kinds:
        rows = [(kind, n, _size(size)) for kind in kinds for n, size in [swept.count(kind)]]
        lines = [*lines, table(("what", "count", "size"), rows)]
    verb = "would free" if dry_run else "freed"
    lines = [*lines, f"{verb} {_size(total)} in {folder}"]
    lines.append(
        f"kept {swept.kept} cache entries of published versions, {_size(swept.kept_bytes)}"
    )
    answer(content, as_json, "\n".join(lines))


def _store_of(manifest: Path | None) -> Path:
    from flows.jobs.category_options import Choices, settings_of

    return settings_of(Choices(manifest=manifest))[0].store


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
