"""Where images come from: a category's folder becomes records, a split, and a real test set.

`root` is always the folder of one category, in one of `pipeline/sources/layouts`. A folder
in another layout is a `SourceError`; one bad file is a `Problem`, and reading goes on. The test
split is only ever passed through: nothing is chosen, held out or thresholded with it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import (
    KINDS,
    READERS,
    Problem,
    Reader,
    found_in,
    no_folder,
)

MVTEC_LICENCE, OCT_LICENCE = "CC BY-NC-SA 4.0", "CC BY 4.0"
RENDERED_LICENCE, UNKNOWN_LICENCE = "Apache-2.0 (rendered)", "unknown"
LICENCES = {
    "mvtec_ad": MVTEC_LICENCE,
    "mvtec_loco": MVTEC_LICENCE,
    "retinal_oct": OCT_LICENCE,
    "folder": UNKNOWN_LICENCE,
}


@dataclass(frozen=True, slots=True)
class SourceListing:
    """All that a category's folder holds. `notes` tell what was left out on purpose, once each."""

    kind: str
    root: Path
    category: str
    entries: tuple[SourceEntry, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    defects_config: list[dict[str, Any]] | None
    licence: str


def read_source(kind: str, root: Path, category: str) -> SourceListing:
    """List one category's folder; raises SourceError when it is not in the layout of `kind`."""
    if kind not in READERS:
        raise SourceError(f"unknown source kind {kind!r}; the kinds are {', '.join(KINDS)}")
    root = Path(root)
    if not root.is_dir():
        raise SourceError(no_folder(root))
    listing = Reader(kind, root.resolve(), category)
    READERS[kind](listing)
    if not any(entry.split == "train" for entry in listing.entries):
        raise SourceError(f"{root}: no usable normal image for training; {found_in(root)}")
    return SourceListing(
        kind, listing.root, category, tuple(listing.entries), tuple(listing.problems),
        tuple(listing.all_notes()), listing.defects_config, LICENCES[kind],
    )  # fmt: skip
