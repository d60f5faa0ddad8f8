"""Where images come from: a category's folder becomes records, a split, and a real test set.

`root` is always the folder of one category, in one of `pipeline/sources/layouts`. A folder
in another layout is a `SourceError`; one bad file is a `Problem`, and reading goes on. The test
split is only ever passed through: nothing is chosen, held out or thresholded with it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import FolderReader, Problem, WrongLayout, few
from pipeline.sources.layouts.registry import LAYOUTS, guess_layout


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
    layout = LAYOUTS.get(kind)
    if layout is None:
        raise SourceError(f"unknown source kind {kind!r}; the kinds are {', '.join(LAYOUTS)}")
    root = Path(root)
    if not root.is_dir():
        raise SourceError(no_folder(root))
    listing = FolderReader(root.resolve(), category, guess_layout)
    try:
        layout.read(listing)
    except WrongLayout as error:
        raise SourceError(wrong_layout(kind, listing.root, str(error))) from None
    if not any(entry.split == "train" for entry in listing.entries):
        raise SourceError(f"{root}: no usable normal image for training; {found_in(root)}")
    return SourceListing(
        kind, listing.root, category, tuple(listing.entries), tuple(listing.problems),
        tuple(listing.all_notes()), listing.defects_config, layout.licence,
    )  # fmt: skip


def no_folder(root: Path) -> str:
    if root.exists():
        return f"{root}: is a file; a source is a folder"
    hint = "check the path"
    if "$" in str(root) or str(root).startswith("~"):
        hint = "variables and ~ are not expanded: write the path out"
    return f"{root}: there is no such folder; {hint}"


def wrong_layout(kind: str, root: Path, expected: str) -> str:
    """One line: expected, found, what to do."""
    message = f"{root}: not in the {kind} layout: expected {expected}; {found_in(root)}"
    fitting = guess_layout(root)
    if fitting not in (None, kind):
        return f"{message}; it looks like {fitting}: use {fitting}:{root}"
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = guess_layout(child)
        if inner not in (None, "folder"):
            return f"{message}; {child.name} in it looks like one category: use {inner}:{child}"
    return f"{message}; see docs/manifest.md for the layouts"


def found_in(root: Path) -> str:
    with os.scandir(root) as children:
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in children)
    return f"found {few(names)}" if names else "the folder is empty"
