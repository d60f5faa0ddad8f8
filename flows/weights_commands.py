"""`anomalysmith weights list | verify | pull`: model files, and the only place that downloads."""

import sys
from typing import Annotated, Any

import typer

from flows.console import BROKEN, DONE, Json, answer, complain, leave, quiet_output, table
from pipeline import weights
from pipeline.errors import WeightsError

weights_app = typer.Typer(
    help="List, check or fetch the model files.", no_args_is_help=True, rich_markup_mode=None
)


@weights_app.command("list")
def list_command(as_json: Json = False) -> None:
    """List every known model file, its licence, and where it was found."""
    rows = [_row(entry) for entry in weights.entries()]
    text = table(
        ("name", "stage", "MB", "licence", "found"),
        [
            (row["name"], row["stage"], f"{row['megabytes']:g}", row["licence"], row["path"] or "-")
            for row in rows
        ],
    )
    looked = ", ".join(map(str, weights.folders()))
    answer({"weights": rows}, as_json, f"{text}\n\nlooked in {weights.BUNDLED}, {looked}")


@weights_app.command("verify")
def verify_command(as_json: Json = False) -> None:
    """Compare the digest of every model file that is present with its publisher's."""
    rows: list[dict[str, Any]] = []
    with quiet_output(as_json):
        for entry in weights.entries():
            path = weights.find(entry.name)
            if path is None:
                continue
            try:
                weights.check(entry.name, path)
                rows.append(_row(entry) | {"ok": True, "problem": ""})
            except WeightsError as error:
                complain(error)
                rows.append(_row(entry) | {"ok": False, "problem": str(error)})
    ok = all(row["ok"] for row in rows)
    lines = [f"{'ok    ' if row['ok'] else 'BROKEN'}  {row['name']}  {row['path']}" for row in rows]
    answer({"ok": ok, "weights": rows}, as_json, "\n".join(lines) or "no weights were found")
    leave(DONE if ok else BROKEN)


@weights_app.command("pull")
def pull_command(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Names as `weights list` shows them."),
    ],
) -> None:
    """Fetch model files from their publishers and check their digests."""
    from tqdm import tqdm

    for name in names:  # all names first: a slip should not cost half a download
        weights.entry(name)
    for name in names:
        with tqdm(desc=name, unit="B", unit_scale=True, file=sys.stderr, mininterval=1.0) as bar:

            def show(done: int, total: int, bar: Any = bar) -> None:
                bar.total = total or None
                bar.update(done - bar.n)

            path = weights.pull(name, show)
        typer.echo(str(path))


def _row(entry: weights.WeightsEntry) -> dict[str, Any]:
    path = weights.find(entry.name)
    return {
        "name": entry.name,
        "stage": entry.stage,
        "file": entry.file,
        "megabytes": entry.megabytes,
        "licence": entry.licence,
        "url": entry.url,
        "path": str(path) if path else None,
    }
