"""Exports: a version in the words of another tool, with its licence and its lineage.

    report = export(open_version(folder), "mvtec", Path("out/bottle"))

Every export holds what its tool reads and, besides, `README.md` (card, licence, how to open it),
`lineage.jsonl` (one line per picture), `export.json` (what this is an export of) and `SHA256SUMS`.
Pixels are the version's own, as PNG without loss. The same version and options give the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import ExportOptions
from pipeline.export.folder import earlier_export, export_folder
from pipeline.export.readme import render_export_card
from pipeline.export.registry import FORMATS, TRAIN_TEST
from pipeline.export.samples import picture_count
from pipeline.sources.licences import terms_of

Progress = Callable[[int, int | None], None]

UNSTATED = (
    "the licence of the source images is not stated; say it in the manifest (`licence`) and "
    "generate again before you pass the export on"
)
LAYOUT = 1
"""Counts up when a format writes something else for the same version."""


@dataclass(frozen=True)
class ExportReport:
    """What came of an export. `cached` is true when it lay there already, whole."""

    out: Path
    to: str
    pictures: int
    left_out: Mapping[str, int]
    notes: tuple[str, ...]
    licence: str
    cached: bool


def export(
    version: Version,
    to: str,
    out: Path,
    options: ExportOptions | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a version into a new or empty folder; UserError when it holds anything else.

    The folder appears whole or not at all; an export that lies there already is checked and left
    alone. `progress` is called with the pictures done and, where it is known, their number.
    """
    options = options or ExportOptions()
    _check(version, to, out, options)
    chosen, terms = FORMATS[to], terms_of(version.index)
    identity: dict[str, Any] = {
        "to": to,
        "layout": LAYOUT,
        "options": options.to_json(),
        "category": version.category,
        "version": version.name,
        "digest": version.digest,
    }
    found = earlier_export(out, identity)
    if found is None:
        total = None if chosen.train_test else picture_count(version, controls=options.controls)
        with export_folder(out) as folder:
            if progress:
                folder.on_picture = lambda done: progress(done, total)
            content = chosen.write(version, options, folder)
            folder.text("README.md", render_export_card(version.index, chosen.title, content))
            found = identity | {
                "licence": terms.text,
                "licence_url": terms.url,
                "pictures": folder.pictures,
                "left_out": dict(content.left_out),
                "notes": [*content.notes, *([] if terms.stated else [UNSTATED])],
            }
            folder.finish(found)
        cached = False
    else:
        cached = True
    return ExportReport(
        out=out.resolve(),
        to=to,
        pictures=found["pictures"],
        left_out=found["left_out"],
        notes=tuple(found["notes"]),
        licence=found["licence"],
        cached=cached,
    )


def _check(version: Version, to: str, out: Path, options: ExportOptions) -> None:
    """Raise UserError for what cannot be meant."""
    if to not in FORMATS:
        raise UserError(f"--to is one of {', '.join(FORMATS)}, got {to!r}")
    if not FORMATS[to].train_test and (options.samples, options.test) != ("held-out", "synthetic"):
        raise UserError(
            f"--samples and --test choose the test side of {' and '.join(TRAIN_TEST)}; {to} holds "
            "every split under its own name"
        )
    if out.resolve().is_relative_to(version.dir.resolve()):
        raise UserError(f"{out} lies in the version, which never changes; choose another folder")
