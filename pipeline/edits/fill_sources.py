"""What must not be copied into a hole: everything that is not the background around it.

An inpainter that copies from its surroundings would else fill the place of a removed part with
another part, or with the rim of the removed one.

Shapes: H, W image; N objects (proposals).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.imaging.masks import dilated
from pipeline.settings import pixels_at

# Width in pixels of the ring around a mask that decides on which background it lies.
RING = 5
# Pixels at 256 around parts and foreground that are no clean background: soft edges and shadows.
HALO = 4


def lies_on_product(
    mask_HW: np.ndarray, box_4: tuple[int, int, int, int], foreground_HW: np.ndarray
) -> bool:
    """True when the foreground surrounds a mask, whose box is `box_4` (exclusive end)."""
    near, ring_hw = _ring(mask_HW, box_4)
    # Without a ring (the object fills the window) it counts as lying on the product.
    return bool(foreground_HW[near][ring_hw].mean() >= 0.5) if ring_hw.any() else True


def not_background(
    hole_HW: np.ndarray,
    box_4: tuple[int, int, int, int],
    foreground_HW: np.ndarray,
    masks: Sequence[np.ndarray],
) -> np.ndarray:
    """(H, W) bool: pixels outside the hole that do not belong to the background around it.

    A hole beside the product must not be filled with product, and one on the product not with what
    lies beside it. Objects (`masks`) are left out in either case with their halo, except those that
    surround the hole: a compartment or a label is what the removed part lay on.
    """
    halo = round(pixels_at(HALO, hole_HW.shape[:2]))
    on_product = lies_on_product(hole_HW, box_4, foreground_HW)
    parts_HW = np.zeros_like(hole_HW) if on_product else foreground_HW.copy()
    ring = _ring(hole_HW, box_4)
    for mask_HW in masks:
        if not _covers(mask_HW, ring):
            parts_HW |= mask_HW
    avoided_HW = dilated(parts_HW, halo)
    if on_product:
        avoided_HW = avoided_HW | ~foreground_HW
    return avoided_HW & ~hole_HW


def surrounds(other_HW: np.ndarray, mask_HW: np.ndarray, box_4: tuple[int, int, int, int]) -> bool:
    """True when a mask, whose box is `box_4`, lies on the other one: a part in a compartment."""
    return _covers(other_HW, _ring(mask_HW, box_4))


def _covers(mask_HW: np.ndarray, ring: tuple[tuple[slice, slice], np.ndarray]) -> bool:
    near, ring_hw = ring
    return bool(ring_hw.any() and mask_HW[near][ring_hw].mean() >= 0.5)


def _ring(
    mask_HW: np.ndarray, box_4: tuple[int, int, int, int]
) -> tuple[tuple[slice, slice], np.ndarray]:
    """A window around a mask, and in it the ring of RING pixels outside the mask, (h, w) bool."""
    x0, y0, x1, y1 = box_4
    # Dilate inside a window around the object only.
    near = np.s_[max(0, y0 - RING) : y1 + RING, max(0, x0 - RING) : x1 + RING]
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    inside_hw = mask_HW[near]
    return near, cv2.dilate(inside_hw.astype(np.uint8), kernel).astype(np.bool_) & ~inside_hw
