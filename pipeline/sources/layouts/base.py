"""What a source layout is, and the reader that all layouts walk a folder with.

A layout tells from its place and name alone which file is what. Order is natural ("2" before "10")
and so the same on every machine. Files that begin with a dot are invisible; nothing outside the
root is ever read, not through links either.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.imaging.decode import is_image_name
from pipeline.records import GOOD, SourceEntry, Split

# What archives and desktops leave in folders.
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_LEADS_OUT = "a link that leads out of the source folder; copy the file in"

UNKNOWN_LICENCE = "unknown"


class WrongLayout(Exception):
    """The folder is not in the layout that was asked for; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that cannot be used as it lies there; `name` is relative to the category."""

    name: str
    reason: str


def no_group(entry: SourceEntry) -> str | None:
    """For layouts whose images are independent of each other."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One folder layout of a source.

    `read` fills a FolderReader and raises WrongLayout; `matches` tells whether a folder is in this
    layout. `files` (Markdown) is the row of docs/manifest.md. `licence` is the one of the dataset
    that the layout comes from, and `credit` its owner. With `one_category` a source folder is
    itself the category; otherwise it holds one folder per category. `group` names what must stay on
    one side of a split, None where the image is on its own.
    """

    name: str
    files: str
    read: "Callable[[FolderReader], None]"
    matches: Callable[[Path], bool]
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    one_category: bool = False
    group: Callable[[SourceEntry], str | None] = no_group


class FolderReader:
    """Collects entries, problems and notes while one category's folder is read.

    `guess` names the layout that a folder has, or None.
    """

    def __init__(
        self, root: Path, category: str, guess: Callable[[Path], str | None] = lambda root: None
    ) -> None:
        self.root, self.category, self.guess = root, category, guess
        self.entries: list[SourceEntry] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.strangers: list[str] = []
        self.defects_config: list[dict[str, Any]] | None = None

    def problem(self, path: Path, reason: str) -> None:
        self.problems.append(Problem(_shown(path.relative_to(self.root)), reason))

    def all_notes(self) -> list[str]:
        if not self.strangers:
            return self.notes
        return [*self.notes, f"{len(self.strangers)} other files ignored: {few(self.strangers)}"]

    def children(self, folder: Path) -> list[Path]:
        """What lies in a folder, in natural order, without junk, without ways out of the root."""
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
        """False when the path, its links followed, leads out of the root (or round in circles)."""
        try:
            return path.resolve().is_relative_to(self.root)
        except (OSError, RuntimeError):
            return False

    def folders(self, folder: Path) -> list[Path]:
        """The folders in a folder; their names are those of defects, so they must be readable."""
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
        """The image files of one folder; other files are counted as strangers."""
        found = []
        for child in self.children(folder) if folder.is_dir() else []:
            if child.is_dir():
                continue
            if not is_image_name(child):
                self.strangers.append(_shown(child.relative_to(self.root)))
            elif not child.name.isprintable():
                self.problem(child, "the name is not printable UTF-8; rename the file")
            else:
                found.append(child)
        return found

    def add(self, path: Path, split: Split, defect: str = GOOD, masks: Sequence[Path] = ()) -> None:
        name = path.relative_to(self.root).as_posix()
        self.entries.append(SourceEntry(self.category, name, path, split, defect, tuple(masks)))

    def expect(self, *folders: str) -> None:
        """Raise WrongLayout unless every one of the layout's folders is there."""
        if all((self.root / folder).is_dir() for folder in folders):
            return
        raise WrongLayout(" and ".join(folders))


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers; ties are broken by the text itself."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if odd % 2 else (0, 0, part) for odd, part in enumerate(parts)]


def _shown(path: Path) -> str:
    """A relative path on one line, whatever bytes are in its name."""
    name = path.as_posix()
    return name if name.isprintable() else ascii(name)[1:-1]


def few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
