"""The four folder layouts: which file is what, told from its place and name alone.

    mvtec_ad      train/good/*  test/{good,DEFECT}/*  ground_truth/DEFECT/STEM_mask.png
    mvtec_loco    train/good/*  validation/good/*  test/{good,DEFECT}/*
                  ground_truth/DEFECT/STEM/*.png (grey value = defect type)  defects_config.json
    retinal_oct   {train,val,test}/{NORMAL,CNV,DME,DRUSEN}/CLASS-PATIENT-NUMBER.jpeg, no masks
    folder        images at any depth, all of them normal

Order is natural ("2" before "10") and so the same on every machine. Files that begin with a dot are
invisible; nothing outside the root is ever read, not through links either.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import SourceError
from pipeline.imaging.decode import is_image_name
from pipeline.records import GOOD, SourceEntry, Split

KINDS = ("mvtec_ad", "mvtec_loco", "retinal_oct", "folder")
OCT_NORMAL, OCT_DISEASES = "NORMAL", ("CNV", "DME", "DRUSEN")
_OCT_SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}
_OCT_NAME = re.compile(r"(?:train|val|test)/(NORMAL|CNV|DME|DRUSEN)/\1-(\w+)-\d+\.\w+", re.I)
_DEFECT_FIELDS = {"defect_name", "pixel_value", "saturation_threshold", "relative_saturation"}
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_LEADS_OUT = "a link that leads out of the source folder; copy the file in"


@dataclass(frozen=True, slots=True)
class Problem:
    """One file that cannot be used as it lies there; `name` is relative to the category."""

    name: str
    reason: str


def guess_kind(root: Path) -> str | None:
    """The kind whose layout the folder has, or None."""
    if (root / "train" / GOOD).is_dir():
        return "mvtec_loco" if (root / "validation" / GOOD).is_dir() else "mvtec_ad"
    if (root / "train" / OCT_NORMAL).is_dir():
        return "retinal_oct"
    if any(is_image_name(path) for path in root.iterdir()):
        return "folder"
    return None


def group_of(entry: SourceEntry) -> str:
    """What must stay on one side of a split: the patient for retinal OCT, else the image itself."""
    match = _OCT_NAME.fullmatch(entry.name)
    return f"patient {match[2]}" if match else entry.name


class Reader:
    """Collects entries, problems and notes while one folder is read."""

    def __init__(self, kind: str, root: Path, category: str) -> None:
        self.kind, self.root, self.category = kind, root, category
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
        return [*self.notes, f"{len(self.strangers)} other files ignored: {_few(self.strangers)}"]

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
        """Raise SourceError unless every one of the layout's folders is there."""
        if all((self.root / folder).is_dir() for folder in folders):
            return
        raise SourceError(_wrong_layout(self.kind, self.root, " and ".join(folders)))


def _read_mvtec_ad(reader: Reader) -> None:
    reader.expect(f"train/{GOOD}")
    if guess_kind(reader.root) == "mvtec_loco":
        raise SourceError(_wrong_layout("mvtec_ad", reader.root, "no validation folder"))
    _read_mvtec(reader, lambda test: [test.with_name(f"{test.stem}_mask.png")], "{stem}_mask.png")


def _read_mvtec_loco(reader: Reader) -> None:
    reader.expect(f"train/{GOOD}", f"validation/{GOOD}")
    for path in reader.images(reader.root / "validation" / GOOD):
        reader.add(path, "validation")
    _read_mvtec(reader, lambda test: reader.images(test.with_suffix("")), "{stem}/000.png")
    config = reader.root / "defects_config.json"
    if config.is_file() and reader.is_inside(config):
        reader.defects_config = read_defects_config(config)
    elif any(entry.masks for entry in reader.entries):
        reader.problem(config, "missing: saturated overlap (sPRO) cannot be measured without it")


def _read_mvtec(reader: Reader, masks_of: Callable[[Path], list[Path]], expected: str) -> None:
    """What both MVTec layouts share; `masks_of` maps a path below ground_truth to mask files."""
    truth = reader.root / "ground_truth"
    for path in reader.images(reader.root / "train" / GOOD):
        reader.add(path, "train")
    used: set[Path] = set()
    for folder in reader.folders(reader.root / "test"):
        for path in reader.images(folder):
            masks = []
            if folder.name != GOOD:
                masks = [
                    mask
                    for mask in masks_of(truth / folder.name / path.name)
                    if mask.is_file() and reader.is_inside(mask)
                ]
                if not masks:
                    wanted = f"ground_truth/{folder.name}/{expected.format(stem=path.stem)}"
                    reader.problem(path, f"defective but without a mask; expected {wanted}")
            used.update(masks)
            reader.add(path, "test", folder.name, masks)
    for folder in reader.folders(truth):
        below = [folder, *reader.folders(folder)]
        for mask in (path for place in below for path in reader.images(place)):
            if mask not in used:
                reader.problem(mask, "a mask without its test image")


def _read_retinal_oct(reader: Reader) -> None:
    """Normals come from NORMAL; a patient is on one side only: test first, then val, then train."""
    reader.expect(f"train/{OCT_NORMAL}")
    found: list[tuple[Path, Split, str]] = []
    for folder, split in _OCT_SPLITS.items():
        classes = (OCT_NORMAL, *OCT_DISEASES) if split == "test" else (OCT_NORMAL,)
        for label in classes:
            for path in reader.images(reader.root / folder / label):
                if _OCT_NAME.fullmatch(path.relative_to(reader.root).as_posix()):
                    found.append((path, split, GOOD if label == OCT_NORMAL else label))
                else:
                    reader.problem(path, f"expected the name {label}-PATIENT-NUMBER.jpeg")
    for path, split, defect in found:
        reader.add(path, split, defect)
    patients: dict[Split, set[str]] = {split: set() for split in _OCT_SPLITS.values()}
    for entry in reader.entries:
        patients[entry.split].add(group_of(entry))
    kept = []
    for entry in reader.entries:
        taken: set[str] = set()
        if entry.split != "test":
            taken |= patients["test"]
        if entry.split == "train":
            taken |= patients["validation"]
        if group_of(entry) not in taken:
            kept.append(entry)
    left_out = len(reader.entries) - len(kept)
    if left_out:
        reader.notes.append(
            f"{left_out} normals left out: their patients are in test or val as well"
        )
    reader.entries = kept


def _read_folder(reader: Reader) -> None:

    def walk(folder: Path) -> None:
        if guess_kind(folder) not in (None, "folder") or folder.name == "ground_truth":
            # Taking it would put defective test images, or masks, among the normals.
            raise SourceError(_wrong_layout("folder", reader.root, "images that are all normal"))
        for path in reader.images(folder):
            reader.add(path, "train")
        for child in reader.folders(folder):
            if child.is_symlink():
                reader.problem(child, "a link to a folder is not followed; name that folder itself")
            else:
                walk(child)

    walk(reader.root)
    reader.entries.sort(key=lambda entry: natural_key(entry.name))
    if not reader.entries and not reader.problems:
        raise SourceError(_wrong_layout("folder", reader.root, "at least one image"))


READERS: dict[str, Callable[[Reader], None]] = {
    "mvtec_ad": _read_mvtec_ad,
    "mvtec_loco": _read_mvtec_loco,
    "retinal_oct": _read_retinal_oct,
    "folder": _read_folder,
}


def read_defects_config(path: Path) -> list[dict[str, Any]]:
    """MVTec LOCO's defect types: grey value, name and saturation of each; SourceError when odd."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: not readable as JSON ({error}); copy it again") from error
    if not isinstance(content, list):
        raise SourceError(f"{path}: expected a list of defect types, got {type(content).__name__}")
    seen: set[int] = set()
    for number, defect in enumerate(content):
        fault = _defect_fault(defect, seen)
        if fault:
            raise SourceError(f"{path}: entry {number}: {fault}; take the dataset's own file")
        seen.add(defect["pixel_value"])
    return content


def _defect_fault(defect: Any, seen: set[int]) -> str:
    """What is wrong with one entry of defects_config.json, or nothing."""
    if not isinstance(defect, dict) or not set(defect) >= _DEFECT_FIELDS:
        return f"expected the keys {', '.join(sorted(_DEFECT_FIELDS))}"
    value, limit = defect["pixel_value"], defect["saturation_threshold"]
    if type(value) is not int or not 1 <= value <= 255:
        return f"pixel_value must be a whole number from 1 to 255, got {value!r}"
    if value in seen:
        return f"pixel_value {value} is given twice"
    if type(defect["relative_saturation"]) is not bool:
        return f"relative_saturation must be true or false, got {defect['relative_saturation']!r}"
    if type(limit) not in (int, float) or not limit > 0:
        return f"saturation_threshold must be above 0, got {limit!r}"
    if defect["relative_saturation"] and limit > 1:
        return f"a relative saturation_threshold is at most 1, got {limit!r}"
    return ""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key in which numbers count as numbers; ties are broken by the text itself."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), part) if odd % 2 else (0, 0, part) for odd, part in enumerate(parts)]


def no_folder(root: Path) -> str:
    if root.exists():
        return f"{root}: is a file; a source is a folder"
    hint = "check the path"
    if "$" in str(root) or str(root).startswith("~"):
        hint = "variables and ~ are not expanded: write the path out"
    return f"{root}: there is no such folder; {hint}"


def _wrong_layout(kind: str, root: Path, expected: str) -> str:
    """One line: expected, found, what to do."""
    message = f"{root}: not in the {kind} layout: expected {expected}; {found_in(root)}"
    fitting = guess_kind(root)
    if fitting not in (None, kind):
        return f"{message}; it looks like {fitting}: use {fitting}:{root}"
    for child in sorted(path for path in root.iterdir() if path.is_dir()):
        inner = guess_kind(child)
        if inner not in (None, "folder"):
            return f"{message}; {child.name} in it looks like one category: use {inner}:{child}"
    return f"{message}; see docs/manifest.md for the layouts"


def found_in(root: Path) -> str:
    with os.scandir(root) as children:
        names = sorted(f"{child.name}/" if child.is_dir() else child.name for child in children)
    return f"found {_few(names)}" if names else "the folder is empty"


def _shown(path: Path) -> str:
    """A relative path on one line, whatever bytes are in its name."""
    name = path.as_posix()
    return name if name.isprintable() else ascii(name)[1:-1]


def _few(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
