"""What must not be copied into a hole: everything that is not the background around it.

An inpainter that copies from its surroundings would else fill the place of a removed part with
another part, or with the rim of the removed one.

Shapes: H, W image; h, w window; N objects (proposals).
"""

from collections.abc import Sequence

import numpy as np

from pipeline.imaging.masks import dilated
from pipeline.imaging.surroundings import ring_around, surrounds
from pipeline.settings import pixels_at

# Pixels at 256 around parts and foreground that are no clean background: soft edges and shadows.
HALO = 4
# The window that is the whole image.
EVERYWHERE = np.s_[:, :]


def lies_on_product(
    mask_HW: np.ndarray, box_4: tuple[int, int, int, int], foreground_HW: np.ndarray
) -> bool:
    """True when the foreground surrounds a mask, whose box is `box_4` (exclusive end)."""
    near, ring_hw = ring_around(mask_HW, box_4)
    # Without a ring (the object fills the window) it counts as lying on the product.
    return bool(foreground_HW[near][ring_hw].mean() >= 0.5) if ring_hw.any() else True


def not_background(
    hole_HW: np.ndarray,
    box_4: tuple[int, int, int, int],
    foreground_HW: np.ndarray,
    masks: Sequence[np.ndarray],
    near: tuple[slice, slice] = EVERYWHERE,
) -> np.ndarray:
    """(h, w) bool: pixels outside the hole that do not belong to the background around it.

    A hole beside the product must not be filled with product, and one on the product not with what
    lies beside it. Objects (`masks`) are left out in either case with their halo, except those that
    surround the hole: a compartment or a label is what the removed part lay on. Only the window
    `near` (rows, columns) is looked at, by default the whole image.
    """
    halo = round(pixels_at(HALO, hole_HW.shape[:2]))
    # What lies just outside the window has its halo inside.
    rows, columns = (slice(*one.indices(n)) for one, n in zip(near, hole_HW.shape, strict=True))
    top, left = max(0, rows.start - halo), max(0, columns.start - halo)
    wide = np.s_[top : rows.stop + halo, left : columns.stop + halo]
    inner = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    on_product = lies_on_product(hole_HW, box_4, foreground_HW)
    parts_hw = np.zeros_like(hole_HW[wide]) if on_product else foreground_HW[wide].copy()
    ring = ring_around(hole_HW, box_4)
    for mask_HW in masks:
        if not surrounds(mask_HW, ring):
            parts_hw |= mask_HW[wide]
    avoided_hw = dilated(parts_hw, halo)[inner]
    if on_product:
        avoided_hw = avoided_hw | ~foreground_HW[near]
    return avoided_hw & ~hole_HW[near]
