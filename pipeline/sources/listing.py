"""Read the folder of a category: its images by split, its test masks, its problems.

`root` is the folder of one category in one of `pipeline/sources/layouts`. A folder in another
layout is a `SourceError`; a single bad file is a `Problem`, and reading goes on. The test split is
only passed through: nothing is selected, held out or calibrated with it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.records import SourceEntry
from pipeline.sources.layouts.base import FolderReader, Problem, WrongLayout, first_few
from pipeline.sources.layouts.registry import LAYOUTS, guess_layout


@dataclass(frozen=True, slots=True)
class SourceListing:
    """The content of a category's folder.

    `kind` is the name of its layout. `notes` say which files were left out on purpose.
    """

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
    # A missing folder is more frequent than a wrong layout, so it is checked first.
    root = Path(root)
    if not root.is_dir():
        raise SourceError(no_folder(root))
    # Resolved, because links inside the folder are compared with it.
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
    """Why `root` is no folder, in one line."""
    if root.exists():
        return f"{root}: is a file; a source is a folder"
    hint = "check the path"
    # The shell does not expand these inside a YAML file or a quoted option.
    if "$" in str(root) or str(root).startswith("~"):
        hint = "variables and ~ are not expanded: write the path out"
    return f"{root}: there is no such folder; {hint}"


def wrong_layout(kind: str, root: Path, expected: str) -> str:
    """The error for a folder in another layout, in one line: expected, found, what to do."""
    message = f"{root}: not in the {kind} layout: expected {expected}; {found_in(root)}"
    fitting = guess_layout(root)
    if fitting not in (None, kind):
        return f"{message}; it looks like {fitting}: use {fitting}:{root}"
    # A frequent mistake: the folder above, which holds one folder per category.
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = guess_layout(child)
        if inner not in (None, "folder"):
            return f"{message}; {child.name} in it looks like one category: use {inner}:{child}"
    return f"{message}; see docs/manifest.md for the layouts"


def found_in(root: Path) -> str:
    """The first names in a folder, for an error message."""
    with os.scandir(root) as children:
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in children)
    return f"found {first_few(names)}" if names else "the folder is empty"
