"""The guard of plain folders: what speaks against all of their images being good.

A defective image or a mask among the normals is learned as good, and nobody is told. So names of
folders, an export of this project and the pixels of a few files are looked at before a folder is
read. A wrong doubt costs one word (`all_normal`), a missed one a detector.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from pipeline.errors import ImageError
from pipeline.imaging.decode import is_image_name, load_image
from pipeline.sources.folder_names import (
    FolderName,
    are_opposites,
    mask_stem,
    read_name,
    same_name,
)
from pipeline.utils.names import text_of

Item = TypeVar("Item")

# The file that every export of this project holds; its size is below this.
_EXPORT, _EXPORT_BYTES = "export.json", 10_000_000
# Files of one folder, and pairs of files, that are decoded.
_SAMPLE = 4
# A mask has few colours; with compression losses nearly all pixels are close to black or white.
_MASK_LEVELS, _LOSSY_SHARE, _LOSSY_DISTANCE = 16, 0.98, 24
# More colours than any mask has; about so many pixels of an image are compared.
_MANY, _PIXELS = 1_000_000, 250_000


def suspicion(root: Path, images: Sequence[Path]) -> str:
    """What was seen in or around a folder that speaks against "all normal", or an empty string.

    `images` are the files that would be read as normals, all below `root`.
    """
    inside = sorted({path.parent for path in images})
    checks: tuple[Callable[[], str], ...] = (
        lambda: _export(root, inside),
        lambda: _named_inside(root, inside),
        lambda: _named_itself(root, images),
        lambda: _beside_good(root, inside),
        lambda: _siblings(root, images),
        lambda: _masks_of_others(root, images),
        lambda: _only_masks(images),
    )
    return text_of(next((seen for check in checks if (seen := check())), ""))


def _export(root: Path, inside: Sequence[Path]) -> str:
    """An export of this project: defects and masks beside normals, in some layout."""
    # Its folder of normals may be read by itself.
    around = [] if _role(root) == "normal" else list(root.parents[:2])
    for folder in (root, *around, *inside):
        try:
            path = folder / _EXPORT
            if not path.is_file() or path.stat().st_size > _EXPORT_BYTES:
                continue
            content = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(content, dict) and {"to", "category", "version", "digest"} <= set(content):
            return (
                f"{path} of an export to {content['to']!s:.20}, which holds anomalies too; use "
                "the images that it was made from"
            )
    return ""


def _named_inside(root: Path, inside: Sequence[Path]) -> str:
    """A folder in it that is called after defects, or after masks and holds some."""
    for folder in inside:
        for part in folder.relative_to(root).parts:
            role = read_name(part).role
            if role == "abnormal" or (role == "mask" and _hold_masks(_files(folder))):
                return _meaning(folder.relative_to(root).as_posix(), role)
    return ""


def _named_itself(root: Path, images: Sequence[Path]) -> str:
    """The folder itself, called so; masks also lie in ground_truth/DEFECT."""
    if _role(root) == "abnormal":
        return _meaning(root.name, "abnormal")
    around = (root.name, root.parent.name)
    named = next((name for name in around if read_name(name).role == "mask"), "")
    return _meaning(named, "mask") if named and _hold_masks(images) else ""


def _beside_good(root: Path, inside: Sequence[Path]) -> str:
    """A folder `good` beside others, as in a test split: then the others are something else."""
    families: dict[Path, set[Path]] = {}
    for folder in inside:
        for place in (folder, *folder.parents):
            if place == root:
                break
            families.setdefault(place.parent, set()).add(place)
    # The folder itself may be one of a test split.
    if read_name(root.parent.name).split == "test" and _role(root) != "normal":
        families[root.parent] = {child for child in _folders(root.parent) if _files(child)} | {root}
    for family in families.values():
        good = sorted(folder.name for folder in family if _role(folder) == "normal")
        others = sorted(f.name for f in family if read_name(f.name) == FolderName())
        if good and others:
            return f"a folder {good[0]}/ beside {others[0]}/, as in a test split with defects"
        if are_opposites(others):
            return f"opposite folders {' and '.join(others)}, of which one may be defective"
    return ""


def _siblings(root: Path, images: Sequence[Path]) -> str:
    """Beside the folder: masks of its images, or defects where its own name says nothing."""
    # Folders of good images and of training have such neighbours in every data set.
    name = read_name(root.name)
    if name.role == "normal" or name.split == "train":
        return ""
    stems = {same_name(path.stem) for path in images}
    good = any(_role(folder) == "normal" for folder in _folders(root.parent))
    for folder in _folders(root.parent):
        role = _role(folder)
        if folder == root or role not in ("mask", "abnormal"):
            continue
        if role == "abnormal" and good and name == FolderName():
            return f"{folder.name}/ and a folder of good images beside it"
        masks = _files(folder) if role == "mask" else []
        # Products beside each other have images of the same names, too.
        if any(mask_stem(path.stem) in stems for path in masks) and _hold_masks(masks):
            return f"masks of its images in {folder.name}/ beside it, so some are defective"
    return ""


def _masks_of_others(root: Path, images: Sequence[Path]) -> str:
    """Files that are called as other images and hold few colours: masks between images."""
    names: dict[str, list[Path]] = {}
    for path in images:
        names.setdefault(mask_stem(path.stem), []).append(path)
    for paths in _spread([paths for paths in names.values() if len(paths) > 1]):
        # With an ending such as `_GT` even an empty mask is one; else it must mark something.
        ended = [path for path in paths if mask_stem(path.stem) != same_name(path.stem)]
        fewest = 1 if 0 < len(ended) < len(paths) else 2
        found = {path: _levels(path) for path in _spread(ended if fewest == 1 else paths)}
        masks = [path for path, levels in found.items() if fewest <= levels <= _MASK_LEVELS]
        if masks and (fewest == 1 or len(masks) < len(found)):
            return f"{masks[0].relative_to(root).as_posix()}, the mask of another image"
    return ""


def _only_masks(images: Sequence[Path]) -> str:
    """Black and white in every file of a sample: masks alone."""
    # The first photograph ends it, so this decodes one file of an ordinary folder.
    if len(images) >= _SAMPLE and all(_levels(path) == 2 for path in _spread(images)):
        return "images that are black and white only, as masks are"
    return ""


def _hold_masks(files: Sequence[Path]) -> bool:
    """True when one of a few of the files is a mask; a folder `masks` may hold photos of masks."""
    return any(_levels(path) <= _MASK_LEVELS for path in _spread(files))


def _levels(path: Path) -> int:
    """The number of colours of an image; 2 for black and white with compression losses."""
    try:
        image_HW3 = load_image(path)
    except (ImageError, OSError):
        # Unreadable files are reported later, and are no masks.
        return _MANY
    # A part of a large image says enough.
    step = max(1, round((image_HW3.size / 3 / _PIXELS) ** 0.5))
    pixels_N3 = image_HW3[::step, ::step].reshape(-1, 3)
    dark, bright = pixels_N3 <= _LOSSY_DISTANCE, pixels_N3 >= 255 - _LOSSY_DISTANCE
    if bright.any() and (dark.all(-1) | bright.all(-1)).mean() >= _LOSSY_SHARE:
        return 2
    # As one number per pixel, which is quicker to count.
    return len(np.unique(pixels_N3.astype(np.int32) @ np.array([65536, 256, 1], np.int32)))


def _spread(items: Sequence[Item]) -> Sequence[Item]:
    """A few items at even distances."""
    step = max(1, len(items) // _SAMPLE)
    return items[::step][:_SAMPLE]


def _role(folder: Path) -> str | None:
    return read_name(folder.name).role


def _meaning(name: str, role: str) -> str:
    return f"the folder {name}/, whose name means {'masks' if role == 'mask' else 'defective'}"


def _folders(folder: Path) -> list[Path]:
    """The subfolders by name; none where they may not be listed."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []


def _files(folder: Path) -> list[Path]:
    """The image files directly in a folder or one level below, by name."""
    found = []
    for place in (folder, *_folders(folder)):
        try:
            found += [path for path in place.iterdir() if is_image_name(path)]
        except OSError:
            continue
    return sorted(found)
