"""What lies around a mask: the ring outside it, and whether another mask surrounds it.

Shapes: H, W image; h, w window; 4 a box x0 y0 x1 y1 with exclusive end.
"""

import cv2
import numpy as np

from pipeline.imaging.masks import Box

# Width in pixels of the ring around a mask that decides on which background it lies.
RING = 5
_AROUND = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)


# A window around a mask, and in it the ring of RING pixels outside the mask, (h, w) bool.
Ring = tuple[tuple[slice, slice], np.ndarray]


def surrounds(other_HW: np.ndarray, ring: Ring) -> bool:
    """True when a mask contains at least half of a ring: a compartment and the part in it."""
    near, ring_hw = ring
    shared = np.count_nonzero(other_HW[near] & ring_hw)
    # Most masks lie elsewhere.
    return bool(shared and 2 * shared >= np.count_nonzero(ring_hw))


def ring_around(mask_HW: np.ndarray, box_4: Box) -> Ring:
    """The ring around a mask whose box is `box_4`; made once, it is asked about many masks."""
    x0, y0, x1, y1 = box_4
    # Dilate inside a window around the object only.
    near = np.s_[max(0, y0 - RING) : y1 + RING, max(0, x0 - RING) : x1 + RING]
    inside_hw = mask_HW[near]
    return near, cv2.dilate(inside_hw.view(np.uint8), _AROUND).view(np.bool_) & ~inside_hw
