"""Exports: a version in the format of another tool, with its licence and its lineage.

    report = export(open_version(folder), "mvtec", Path("out/bottle"))

Besides what its tool reads, every export has `README.md` (card, licence, how to open it),
`lineage.jsonl` (one line per image), `export.json` (version and options) and `SHA256SUMS`. Pixels
are those of the version, as lossless PNG. The same version and options give the same bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.files import CARD
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.export.base import ExportOptions
from pipeline.export.folder import earlier_export, export_folder
from pipeline.export.readme import render_export_card
from pipeline.export.registry import FORMATS, TRAIN_TEST
from pipeline.export.samples import image_count
from pipeline.sources.licences import terms_of

# Called with the number of images done and the total, where it is known.
Progress = Callable[[int, int | None], None]

# The note on an export whose licence is unknown.
UNSTATED = (
    "the licence of the source images is not stated; add it to the manifest (`licence`) and "
    "generate again before you pass the export on"
)
# Increased when a format writes something else for the same version, so that older exports are not
# taken for equal ones.
LAYOUT = 1


@dataclass(frozen=True)
class ExportReport:
    """The result of an export. `cached` is True when it was there already, complete."""

    out: Path
    to: str
    images: int
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

    The folder appears complete or not at all. The same export in `out` is checked and left as it
    is. `progress` is called with the number of images done and, where known, the total.
    """
    options = options or ExportOptions()
    _check(version, to, out, options)
    chosen, terms = FORMATS[to], terms_of(version.index)
    # What makes two exports the same one; stored in export.json.
    identity: dict[str, Any] = {
        "to": to,
        "layout": LAYOUT,
        "options": options.to_json(),
        "category": version.category,
        "version": version.name,
        "digest": version.digest,
    }
    # The same export is checked instead of written again; anything else in `out` raises.
    found = earlier_export(out, identity)
    if found is None:
        # For a test side the total depends on every image, so it is not known in advance.
        total = None if chosen.train_test else image_count(version, controls=options.controls)
        with export_folder(out) as folder:
            if progress:
                folder.on_image = lambda done: progress(done, total)
            content = chosen.write(version, options, folder)
            folder.text(CARD, render_export_card(version.index, chosen.title, content))
            found = identity | {
                "licence": terms.text,
                "licence_url": terms.url,
                "pictures": folder.images,
                "left_out": dict(content.left_out),
                "notes": [*content.notes, *([] if terms.stated else [UNSTATED])],
            }
            # Writes export.json, so it comes after everything else.
            folder.finish(found)
        cached = False
    else:
        cached = True
    return ExportReport(
        out=out.resolve(),
        to=to,
        images=found["pictures"],
        left_out=found["left_out"],
        notes=tuple(found["notes"]),
        licence=found["licence"],
        cached=cached,
    )


def _check(version: Version, to: str, out: Path, options: ExportOptions) -> None:
    """Raise UserError for options that do not go together."""
    if to not in FORMATS:
        raise UserError(f"--to: expected one of {', '.join(FORMATS)}, got {to!r}")
    if not FORMATS[to].train_test and (options.samples, options.test) != ("held-out", "synthetic"):
        raise UserError(
            f"--samples and --test choose the test side of {' and '.join(TRAIN_TEST)}; {to} holds "
            "every split under its own name"
        )
    # An export inside the version would change it, and `verify` would report the files.
    if out.resolve().is_relative_to(version.dir.resolve()):
        raise UserError(f"{out} is inside the version, which never changes; choose another folder")
