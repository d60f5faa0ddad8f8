"""The Layout record, and the reader with which all layouts walk a folder.

A layout determines the role of a file by its path and name only. The order is natural ("2" before
"10"), so it is the same on every machine. Files whose name begins with a dot are ignored. Nothing
outside the root is read, not through links either.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.imaging.decode import is_image_name
from pipeline.records import GOOD, SourceEntry, Split

# Files that archives and desktops leave in folders, in lower case.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_LEADS_OUT = "a link that leads out of the source folder; copy the file in"

# The licence of a source that states none; its cards say to ask the owner.
UNKNOWN_LICENCE = "unknown"


class WrongLayout(Exception):
    """The folder is not in the layout of the reader; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that cannot be used, and why; `name` is its path relative to the category."""

    name: str
    reason: str


def no_group(entry: SourceEntry) -> str | None:
    """For layouts whose images are independent of each other."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One folder layout of a source.

    `read` fills a FolderReader or raises WrongLayout; `matches` is True for a folder in this
    layout. `files` (Markdown) is the row in docs/manifest.md. `licence` is that of the dataset
    which defined the layout, and `credit` its owner. With `one_category` a source folder is itself
    the category; otherwise it holds one folder per category. `group` names the images that must
    stay on one side of a split, such as those of a patient; None when the image is independent.
    """

    name: str
    files: str
    # In quotes: FolderReader is defined below.
    read: "Callable[[FolderReader], None]"
    matches: Callable[[Path], bool]
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    one_category: bool = False
    group: Callable[[SourceEntry], str | None] = no_group


class FolderReader:
    """Collects entries, problems and notes while one category's folder is read.

    `guess` returns the name of a folder's layout, or None.
    """

    def __init__(
        self, root: Path, category: str, guess: Callable[[Path], str | None] = lambda root: None
    ) -> None:
        self.root, self.category, self.guess = root, category, guess
        self.entries: list[SourceEntry] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        # Files that are no images, by their path.
        self.ignored: list[str] = []
        self.defects_config: list[dict[str, Any]] | None = None

    def problem(self, path: Path, reason: str) -> None:
        """Record a file or folder of the root that cannot be used."""
        self.problems.append(Problem(_printable(path.relative_to(self.root)), reason))

    def all_notes(self) -> list[str]:
        """The notes, with one line for all ignored files."""
        if not self.ignored:
            return self.notes
        return [*self.notes, f"{len(self.ignored)} other files ignored: {first_few(self.ignored)}"]

    def children(self, folder: Path) -> list[Path]:
        """Files and folders in natural order, without junk and links that lead out of the root."""
        # A linked folder could bring in files from outside the source.
        if not self.is_inside(folder):
            self.problem(folder, _LEADS_OUT)
            return []
        found = []
        for child in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
            if child.name.startswith(".") or child.name.lower() in _JUNK:
                continue
            if child.is_symlink() and not self.is_inside(child):
                self.problem(child, _LEADS_OUT)
            elif child.is_symlink() and not child.exists():
                self.problem(child, "a link that leads nowhere")
            else:
                found.append(child)
        return found

    def is_inside(self, path: Path) -> bool:
        """False when the path, with links resolved, is outside the root, or is a cycle of links."""
        try:
            return path.resolve().is_relative_to(self.root)
        # RuntimeError is pathlib's for a cycle of links.
        except (OSError, RuntimeError):
            return False

    def folders(self, folder: Path) -> list[Path]:
        """The subfolders; their names become names of defects, so they must be printable."""
        found = []
        for child in self.children(folder) if folder.is_dir() else []:
            if not child.is_dir():
                continue
            if child.name.isprintable():
                found.append(child)
            else:
                self.problem(child, "the name is not printable UTF-8; rename the folder")
        return found

    def images(self, folder: Path) -> list[Path]:
        """The image files of one folder; other files are noted as ignored."""
        found = []
        for child in self.children(folder) if folder.is_dir() else []:
            if child.is_dir():
                continue
            if not is_image_name(child):
                self.ignored.append(_printable(child.relative_to(self.root)))
            elif not child.name.isprintable():
                self.problem(child, "the name is not printable UTF-8; rename the file")
            else:
                found.append(child)
        return found

    def add(self, path: Path, split: Split, defect: str = GOOD, masks: Sequence[Path] = ()) -> None:
        """Add one image with its split, defect type and mask files."""
        name = path.relative_to(self.root).as_posix()
        self.entries.append(SourceEntry(self.category, name, path, split, defect, tuple(masks)))

    def expect(self, *folders: str) -> None:
        """Raise WrongLayout unless all of these folders exist."""
        if all((self.root / folder).is_dir() for folder in folders):
            return
        raise WrongLayout(" and ".join(folders))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key with numbers by their value; the text itself breaks ties, as between 01 and 1."""
    # Text and numbers alternate, so every second part is a number.
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if odd % 2 else (0, 0, part) for odd, part in enumerate(parts)]


def _printable(path: Path) -> str:
    """A relative path on one line; a name that is not printable is written with escapes."""
    name = path.as_posix()
    return name if name.isprintable() else ascii(name)[1:-1]


def first_few(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
