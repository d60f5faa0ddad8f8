"""Real test images and their ground-truth masks at the stored size."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import file_digest, load_image, load_mask, read_header
from pipeline.records import SourceEntry, TestImage

MARKED = 255
"""The value that stands for "defective" where a mask has no types."""


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
