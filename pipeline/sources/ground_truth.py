"""Real test images and their ground-truth masks at the stored size.

Shapes: K regions of one image; H, W stored size.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from pipeline.errors import ImageError
from pipeline.imaging.decode import file_digest, load_image, load_mask, read_header
from pipeline.records import SourceEntry, TestImage

# The grey value of every region in masks without defect types, as in MVTec AD.
DEFECT_VALUE = 255


def load_test(
    entry: SourceEntry,
    size_HW: tuple[int, int],
    defects_config: Sequence[dict[str, Any]] | None = None,
) -> TestImage:
    """Pixels and ground truth of one test image at the stored size; ImageError when unusable."""
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
    """The ground truth: (K, H, W) bool masks and their (K,) uint8 grey values.

    One mask per file and grey value. MVTec LOCO has one file per defect, whose grey value is the
    defect type; regions may overlap and are kept separate, because sPRO saturates each on its own.
    Without a config every non-zero pixel belongs to one region of value 255.
    """
    masks, values = [], []
    true_size = read_header(entry.path).size_HW
    known = {defect["pixel_value"] for defect in defects_config or ()}
    for path in entry.masks:
        grey_HW = load_mask(path, labels=bool(known))
        # Compared with the stored size of the file: a mask of another size would be misaligned.
        if grey_HW.shape != true_size:
            raise ImageError(
                f"{path}: the mask is {grey_HW.shape[1]} x {grey_HW.shape[0]} px, its image "
                f"{true_size[1]} x {true_size[0]} px; export the mask at the image's size"
            )
        found = np.flatnonzero(np.bincount(grey_HW.ravel(), minlength=256)[1:]) + 1
        for value in found if known else (DEFECT_VALUE,):
            if known and int(value) not in known:
                raise ImageError(
                    f"{path}: grey value {value} is not in defects_config.json "
                    f"(known: {sorted(known)}); take the dataset's own files"
                )
            # An all-zero mask file has no region.
            region_HW = grey_HW == value if known else grey_HW > 0
            if region_HW.any():
                masks.append(_resized_mask(region_HW, size_HW))
                values.append(int(value))
    # The reshape gives (0, H, W) where there is no region.
    masks_KHW = np.array(masks, np.bool_).reshape(-1, *size_HW)
    return masks_KHW, np.array(values, np.uint8)


def _resized_mask(mask_HW: np.ndarray, size_HW: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resize as in `load_mask`; a region that would vanish keeps one pixel."""
    if mask_HW.shape == size_HW:
        return mask_HW
    image = Image.fromarray(mask_HW.astype(np.uint8))
    small_HW = np.asarray(image.resize(size_HW[::-1], Image.Resampling.NEAREST)) > 0
    # Losing a small defect would count its detection as a false positive. Keep the pixel of its
    # middle, in reading order.
    if not small_HW.any():
        rows, columns = np.nonzero(mask_HW)
        middle = len(rows) // 2
        small_HW[
            rows[middle] * size_HW[0] // mask_HW.shape[0],
            columns[middle] * size_HW[1] // mask_HW.shape[1],
        ] = True
    return small_HW
