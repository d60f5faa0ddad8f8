"""Where images come from: a category's folder becomes records, a split, and a real test set.

`root` is always the folder of one category, in one of `pipeline/sources/layouts`. A folder
in another layout is a `SourceError`; one bad file is a `Problem`, and reading goes on. The test
split is only ever passed through: nothing is chosen, held out or thresholded with it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ImageError, SourceError
from pipeline.imaging.decode import file_digest, load_image, load_mask, read_header
from pipeline.records import SourceEntry, TestImage
from pipeline.sources.layouts.base import (
    KINDS,
    READERS,
    Problem,
    Reader,
    found_in,
    group_of,
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
MARKED = 255
"""The value that stands for "defective" where a mask has no types."""


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


def split_entries(
    entries: Sequence[SourceEntry], validation_fraction: float, seed: int
) -> tuple[SourceEntry, ...]:
    """Hold out a share of the training normals for validation; the same ones on every machine.

    A layout that brings its own validation split keeps it. Chosen by the smallest hash of seed and
    name, whole groups at a time (all images of one patient), at least one image where the fraction
    is above 0, and never the last group of training. Test entries pass through untouched.
    """
    train = [entry for entry in entries if entry.split == "train"]
    groups: dict[str, int] = {}
    for entry in train:
        groups[group_of(entry)] = groups.get(group_of(entry), 0) + 1
    own = any(entry.split == "validation" for entry in entries)
    if own or not validation_fraction or len(groups) < 2:
        return tuple(entries)
    wanted, count = max(1, round(validation_fraction * len(train))), 0
    held_out: set[str] = set()
    for group in sorted(groups, key=lambda group: _draw(seed, group))[:-1]:
        # A group that overshoots is passed over, unless nothing is held out yet.
        if held_out and count + groups[group] > wanted:
            continue
        held_out.add(group)
        count += groups[group]
        if count >= wanted:
            break
    return tuple(
        replace(entry, split="validation")
        if entry.split == "train" and group_of(entry) in held_out
        else entry
        for entry in entries
    )


def load_test(
    entry: SourceEntry,
    size_HW: tuple[int, int],
    defects_config: Sequence[dict[str, Any]] | None = None,
) -> TestImage:
    """Pixels and ground truth of one test image at the stored size."""
    masks_KHW, values_K = load_regions(entry, size_HW, defects_config)
    return TestImage(
        name=entry.name,
        digest=file_digest(entry.path),
        defect=entry.defect,
        pixels_HW3=load_image(entry.path, size_HW),
        masks_KHW=masks_KHW,
        values_K=values_K,
    )


def load_regions(
    entry: SourceEntry,
    size_HW: tuple[int, int],
    defects_config: Sequence[dict[str, Any]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Ground truth alone: (K, H, W) bool masks and their (K,) uint8 grey values.

    One mask per file and grey value: MVTec LOCO draws each defect into its own file, where the
    value names its type; these regions may overlap and stay apart (the defective area is their
    union). Without a config every marked pixel counts alike and the value is 255.
    """
    masks, values = [], []
    true_size = read_header(entry.path).size_HW
    known = {defect["pixel_value"] for defect in defects_config or ()}
    for path in entry.masks:
        grey_HW = load_mask(path)
        if grey_HW.shape != true_size:
            raise ImageError(
                f"{path}: the mask is {grey_HW.shape[1]} x {grey_HW.shape[0]} px, its image "
                f"{true_size[1]} x {true_size[0]} px; export the mask at the image's size"
            )
        for value in np.unique(grey_HW[grey_HW > 0]) if known else (MARKED,):
            if known and int(value) not in known:
                raise ImageError(
                    f"{path}: grey value {value} is not in defects_config.json "
                    f"(known: {sorted(known)}); take the dataset's own files"
                )
            region_HW = grey_HW == value if known else grey_HW > 0
            if region_HW.any():
                masks.append(_shrunk(region_HW, size_HW))
                values.append(int(value))
    masks_KHW = np.array(masks, np.bool_).reshape(-1, *size_HW)
    return masks_KHW, np.array(values, np.uint8)


def _shrunk(mask_HW: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    """Nearest-pixel resize as `load_mask` does; a region that would vanish keeps one pixel."""
    if mask_HW.shape == size_HW:
        return mask_HW
    image = Image.fromarray(mask_HW.astype(np.uint8))
    small_HW = np.asarray(image.resize(size_HW[::-1], Image.Resampling.NEAREST)) > 0
    if not small_HW.any():
        rows, columns = np.nonzero(mask_HW)
        middle = len(rows) // 2
        small_HW[
            rows[middle] * size_HW[0] // mask_HW.shape[0],
            columns[middle] * size_HW[1] // mask_HW.shape[1],
        ] = True
    return small_HW


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
