"""The Layout record, and the reader with which all layouts walk a folder.

A layout determines the role of a file by its path and name only. The order is natural ("2" before
"10"), so it is the same on every machine. Which files count is decided by `pipeline.imaging.walk`.
Nothing outside the root is read, not through links either, unless the user names a folder that
links may lead into.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.imaging.decode import is_image_name
from pipeline.imaging.walk import LEADS_OUT, Bounds, LeftOut, natural_key, read_folder
from pipeline.records import GOOD, SourceEntry, Split
from pipeline.sources.options import NO_OPTIONS, SourceOptions
from pipeline.utils.names import text_of, visible
from pipeline.utils.repeated import first_few

# The licence of a source that states none; its cards say to ask the owner.
UNKNOWN_LICENCE = "unknown"


class WrongLayout(Exception):
    """The folder is not in the layout of the reader: what was expected, and what speaks against it.

    `seen` is empty where the names in the folder say enough.
    """

    def __init__(self, expected: str, seen: str = "") -> None:
        super().__init__(expected)
        self.seen = seen


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
    the category; otherwise it holds one folder per category. `by_name` marks the layouts of data
    sets that share a tree with others and are told by the names of their categories. `group` names
    the images that must stay on one side of a split, such as those of a patient; None when the
    image is independent.
    """

    name: str
    files: str
    # In quotes: FolderReader is defined below.
    read: "Callable[[FolderReader], None]"
    matches: Callable[[Path], bool]
    licence: str = UNKNOWN_LICENCE
    credit: str = ""
    one_category: bool = False
    by_name: bool = False
    group: Callable[[SourceEntry], str | None] = no_group


class FolderReader:
    """Collects entries, problems and notes while one category's folder is read.

    `guess` returns the name of a folder's layout, or None. `links` is a folder outside the root
    that links may lead into. `options` are what the user says about the source.
    """

    def __init__(
        self,
        root: Path,
        category: str,
        guess: Callable[[Path], str | None] = lambda root: None,
        links: Path | None = None,
        options: SourceOptions = NO_OPTIONS,
    ) -> None:
        self.root, self.category, self.guess, self.options = root, category, guess, options
        self.bounds = Bounds.of(root, links)
        # Links that were not followed; each is a problem, too.
        self.links_left_out: list[LeftOut] = []
        self.entries: list[SourceEntry] = []
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        # Files that are no images, by their path.
        self.ignored: list[str] = []
        self.defects_config: list[dict[str, Any]] | None = None

    def problem(self, path: Path, reason: str) -> None:
        """Record a file or folder of the root that cannot be used."""
        self.problems.append(Problem(self._name(path), reason))

    def all_notes(self) -> list[str]:
        """The notes, with one line for all ignored files."""
        if not self.ignored:
            return self.notes
        return [
            *self.notes,
            f"{len(self.ignored)} other files ignored: {first_few(self.ignored, 5)}",
        ]

    def children(self, folder: Path) -> list[Path]:
        """Files and folders in natural order, without junk and links that lead out of the root."""
        # A linked folder could bring in files from outside the source.
        if not self.is_inside(folder):
            self.problem(folder, LEADS_OUT)
            return []
        found = []
        entries = read_folder(folder, self.bounds)
        for entry, fault in sorted(entries, key=lambda pair: natural_key(pair[0].name)):
            if fault is None:
                found.append(folder / entry.name)
            else:
                self.links_left_out.append(fault)
                self.problem(fault.path, fault.reason)
        return found

    def is_inside(self, path: Path) -> bool:
        """False when the path, with links resolved, leads out of the bounds, or in a circle."""
        return self.bounds.hold(path)

    def folders(self, folder: Path) -> list[Path]:
        """The subfolders; their names become names of defects, so they must be printable."""
        found = []
        for child in self.children(folder) if folder.is_dir() else []:
            if not child.is_dir():
                continue
            if text_of(child.name).isprintable():
                found.append(child)
            else:
                self.problem(child, "the name is not printable; rename the folder")
        return found

    def images(self, folder: Path) -> list[Path]:
        """The image files of one folder; other files are noted as ignored."""
        found = []
        for child in self.children(folder) if folder.is_dir() else []:
            if child.is_dir():
                continue
            if not is_image_name(child):
                self.ignored.append(self._name(child))
            elif not text_of(child.name).isprintable():
                self.problem(child, "the name is not printable; rename the file")
            else:
                found.append(child)
        return found

    def add(self, path: Path, split: Split, defect: str = GOOD, masks: Sequence[Path] = ()) -> None:
        """Add one image with its split, defect type and mask files."""
        # Here names become text: what follows can be stored in every format.
        name, defect = text_of(path.relative_to(self.root).as_posix()), text_of(defect)
        self.entries.append(SourceEntry(self.category, name, path, split, defect, tuple(masks)))

    def _name(self, path: Path) -> str:
        """The path below the root as one line of text."""
        return visible(text_of(path.relative_to(self.root).as_posix()))

    def expect(self, *folders: str) -> None:
        """Raise WrongLayout unless all of these folders exist."""
        if all((self.root / folder).is_dir() for folder in folders):
            return
        raise WrongLayout(" and ".join(folders))
