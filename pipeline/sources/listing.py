"""Read the folder of a category: its images by split, its test masks, its problems.

`root` is the folder of one category in one of `pipeline/sources/layouts`. A folder in another
layout is a `SourceError`; a single bad file is a `Problem`, and reading goes on. The test split is
only passed through: nothing is selected, held out or calibrated with it.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.imaging.walk import only_links
from pipeline.records import GOOD, SourceEntry
from pipeline.sources.layouts.base import FolderReader, Problem, WrongLayout
from pipeline.sources.layouts.image_folder import ALL_NORMAL
from pipeline.sources.layouts.registry import LAYOUTS, guess_layout
from pipeline.sources.options import NO_OPTIONS, SourceOptions
from pipeline.utils.names import text_of
from pipeline.utils.repeated import first_few


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


def read_source(
    kind: str,
    root: Path,
    category: str,
    links: Path | None = None,
    options: SourceOptions = NO_OPTIONS,
) -> SourceListing:
    """List one category's folder; raises SourceError when it is not in the layout of `kind`.

    Links inside it may lead into the folder `links` as well.
    """
    layout = LAYOUTS.get(kind)
    if layout is None:
        raise SourceError(f"unknown source kind {kind!r}; the kinds are {', '.join(LAYOUTS)}")
    # A missing folder is more frequent than a wrong layout, so it is checked first.
    root = Path(root)
    if not root.is_dir():
        raise SourceError(no_folder(root))
    # Resolved, because links inside the folder are compared with it.
    listing = FolderReader(root.resolve(), category, guess_layout, links, options)
    try:
        layout.read(listing)
    except WrongLayout as error:
        raise SourceError(wrong_layout(kind, listing.root, str(error), error.seen)) from None
    if not any(entry.split == "train" for entry in listing.entries):
        why = only_links(listing.links_left_out) or found_in(root)
        raise SourceError(f"{text_of(root)}: no usable normal image for training; {why}")
    notes = [*listing.all_notes(), *_test_doubts(listing.entries)]
    return SourceListing(
        kind, listing.root, category, tuple(listing.entries),
        tuple(dict.fromkeys(listing.problems)), tuple(notes), listing.defects_config,
        layout.licence,
    )  # fmt: skip


def _test_doubts(entries: Sequence[SourceEntry]) -> Iterator[str]:
    """What a test split lacks for a measurement, in one line."""
    tests = [entry for entry in entries if entry.split == "test"]
    if tests and not any(entry.defect == GOOD for entry in tests):
        kinds = list(dict.fromkeys(entry.defect for entry in tests))
        yield (
            f"NO GOOD TEST IMAGE: all {len(tests)} are defective ({first_few(kinds)}), so neither "
            "AUROC nor false alarms can be measured; put some into test/good (or OK, normal, ...)"
        )
    if tests and all(entry.defect == GOOD for entry in tests):
        yield f"no defective test image: all {len(tests)} are good, so AUROC cannot be measured"


def no_folder(root: Path) -> str:
    """Why `root` is no folder, in one line."""
    if root.exists():
        return f"{root}: is a file; a source is a folder"
    hint = "check the path"
    # The shell does not expand these inside a YAML file or a quoted option.
    if "$" in str(root) or "~" in root.parts:
        hint = "variables and ~ are not expanded: write the path out"
    return f"{root}: there is no such folder; {hint}"


def wrong_layout(kind: str, root: Path, expected: str, seen: str = "") -> str:
    """The error for a folder in another layout, in one line: expected, found, what to do."""
    found = f"saw {seen}" if seen else found_in(root)
    message = f"{root}: not in the {kind} layout: expected {expected}; {found}"
    # The only layout whose reader may be mistaken.
    if expected != ALL_NORMAL:
        return f"{message}; {_fitting(kind, root)}"
    advice = _around(root) or _fitting(kind, root)
    return (
        f"{message}; {advice}; if every image is good, say --all-normal (in a manifest: "
        "all_normal: true)"
    )


def _around(root: Path) -> str:
    """The data set that a folder is a part of, such as its test split; empty if there is none."""
    found = [(folder, guess_layout(folder)) for folder in root.parents[:2]]
    # A test split alone looks like OK and NG, too; the whole comes first.
    for folder, outer in sorted(found, key=lambda one: one[1] == "ok_ng"):
        if outer not in (None, "folder"):
            return f"it is a part of {folder}, which looks like {outer}: use {outer}:{folder}"
    return ""


def _fitting(kind: str, root: Path) -> str:
    """Which layout to use for a folder, or for one in it."""
    fitting = guess_layout(root)
    if fitting not in (None, kind):
        return f"it looks like {fitting}: use {fitting}:{root}"
    # A frequent mistake: the folder above, which holds one folder per category.
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = guess_layout(child)
        if inner not in (None, "folder"):
            return f"{child.name} in it looks like one category: use {inner}:{child}"
    return "see docs/manifest.md for the layouts"


def found_in(root: Path) -> str:
    """The first names in a folder, for an error message."""
    with os.scandir(root) as children:
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in children)
    return f"found {first_few(names, 5)}" if names else "the folder is empty"
