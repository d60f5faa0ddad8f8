"""The one walk through folders of images: which files count, in which order, where links may lead.

`generate` and `doctor` (`pipeline.sources`), `predict`, distillation, textures and the folders that
a detector draws images from find the same files in the same order.

| left out                                         |                                              |
|--------------------------------------------------|----------------------------------------------|
| hidden files and folders, `._x` of macOS         | silently                                     |
| `__MACOSX`, `@eaDir`, `Thumbs.db`, `desktop.ini` | silently, in any case                        |
| other endings than those of images, in any case  | silently                                     |
| links that lead out of the folder, or nowhere    | with the reason                              |
| linked folders                                   | with the reason: they may lead in circles    |

With `links`, a folder that the user names (DVC's cache, git-annex), links may lead into it as well,
and linked folders are entered, each once. The order is natural: 2 before 10.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.imaging.decode import SUFFIXES
from pipeline.utils.names import text_of

# Files and folders that archives, desktops and disk stations leave behind, in lower case.
_JUNK = frozenset({"__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini"})
LEADS_OUT = "a link that leads out of the folder; copy the file in, or use --follow-links"
LEADS_NOWHERE = "a link that leads nowhere; get its content, as by `dvc pull` or `git annex get`"
LINKED_FOLDER = "a link to a folder is not followed; name that folder itself, or use --follow-links"
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or folder that was left out, and why; `target` is the end of a link that leads out."""

    path: Path
    reason: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where files may be read: below `root`, and below `links` by way of a link. Both resolved."""

    root: Path
    links: Path | None = None

    @classmethod
    def of(cls, root: Path, links: Path | None = None) -> "Bounds":
        """The bounds of a walk below `root`."""
        return cls(root.resolve(), links.resolve() if links else None)

    def hold(self, path: Path) -> bool:
        """False when the path, with links resolved, is outside, or is a circle of links."""
        try:
            real = path.resolve()
        # RuntimeError is pathlib's for a circle of links.
        except (OSError, RuntimeError):
            return False
        return real.is_relative_to(self.root) or (
            self.links is not None and real.is_relative_to(self.links)
        )

    def fault(self, link: Path) -> LeftOut | None:
        """Why a link is not followed; None when it is."""
        if not self.hold(link):
            return LeftOut(link, LEADS_OUT, os.path.realpath(link))
        return None if link.exists() else LeftOut(link, LEADS_NOWHERE)


@dataclass(slots=True)
class Walk:
    """What a walk found: names of image files relative to `root` with `/`, in natural order."""

    root: Path
    names: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def walk_images(root: Path, links: Path | None = None) -> Walk:
    """All image files below a folder, at any depth.

    Plain system calls instead of Path objects: a million files are listed within seconds.
    """
    found, bounds = Walk(root), Bounds.of(root, links)
    entered = {str(bounds.root)}
    # Folders still to be read, as (path, its name relative to the root).
    waiting = [(str(root), "")]
    while waiting:
        place, before = waiting.pop()
        for entry, fault in read_folder(place, bounds):
            name = before + entry.name
            if fault:
                found.left_out += [fault] if _may_matter(entry) else []
            elif entry.is_dir():
                if entry.is_symlink() and links is None:
                    found.left_out.append(LeftOut(Path(entry.path), LINKED_FOLDER))
                    continue
                # Only by links can a folder be reached twice.
                real = os.path.realpath(entry.path) if links else entry.path
                if real not in entered:
                    entered.add(real)
                    waiting.append((entry.path, f"{name}/"))
            elif is_image_file(entry.name) and entry.is_file():
                found.names.append(name)
    found.names.sort(key=natural_key)
    found.left_out.sort(key=lambda left: natural_key(str(left.path)))
    return found


def read_folder(
    folder: str | Path, bounds: Bounds
) -> list[tuple["os.DirEntry[str]", LeftOut | None]]:
    """The entries of one folder but for junk, each with the reason why it must not be used."""
    with os.scandir(folder) as entries:
        kept = [entry for entry in entries if not is_junk(entry.name)]
    return [
        (entry, bounds.fault(Path(entry.path)) if entry.is_symlink() else None) for entry in kept
    ]


def is_junk(name: str) -> bool:
    """True for names that are left out everywhere: hidden files, leftovers of other programs."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image_file(name: str) -> bool:
    """True for a name with the ending of an image."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def natural_key(name: str) -> str:
    """Sort key with numbers by their value; the text itself breaks ties, as between 01 and 1."""
    return _NUMBER.sub(_number_key, name)


def only_links(left_out: Sequence[LeftOut]) -> str:
    """Why a folder without usable images has none, when links are the reason; else empty."""
    targets = {left.path: left.target for left in left_out if left.target}
    if targets:
        # The folder in which all the links end, such as the cache of DVC.
        common = text_of(os.path.commonpath([os.path.dirname(end) for end in targets.values()]))
        return (
            f"{len(targets)} links lead out of the folder, into {common}; allow it by "
            f"--follow-links {common} (in a manifest: follow_links), or copy the files in"
        )
    if left_out:
        return f"{len(left_out)} links: {left_out[0].reason}"
    return ""


def _number_key(found: re.Match[str]) -> str:
    # A number with more digits is larger; the digits as written come last.
    digits = found[0].lstrip("0")
    return f"{chr(len(digits))}{digits}\0{found[0]}\0"


def _may_matter(entry: "os.DirEntry[str]") -> bool:
    """Of links that are not followed, those to images and to folders are told."""
    return is_image_file(entry.name) or entry.is_dir()
