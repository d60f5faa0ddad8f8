"""Inpaint each hole of an image only once.

Removing an object, moving it, swapping it and pasting it back all need the background behind it:
the same hole, and a deterministic inpainter. A network takes about a third of a second per hole, so
it runs once per image and hole.
"""

import numpy as np

from pipeline.models.inpaint.base import Inpainter
from pipeline.records import bounding_box


class MemoInpainter:
    """The inpainter of one image with a cache of inpainted holes.

    The result is the inpainter's inside the hole and the image itself outside. Only the bounding
    box of each hole is stored, a few kilobytes each.
    """

    def __init__(self, inpaint: Inpainter, image_HW3: np.ndarray) -> None:
        self._inpaint, self._image_HW3 = inpaint, image_HW3
        self._known: dict[tuple[int, int, int, int, bytes], np.ndarray] = {}

    def __call__(self, hole_HW: np.ndarray) -> np.ndarray:
        """The image with the hole (bool, not empty) inpainted, RGB uint8 of the image's size."""
        x0, y0, x1, y1 = bounding_box(hole_HW)
        box = slice(y0, y1), slice(x0, x1)
        # The mask within its box, as bits: equal boxes may hold different holes.
        key = (x0, y0, x1, y1, np.packbits(hole_HW[box]).tobytes())
        if key not in self._known:
            # A copy, because a view would keep the whole image alive.
            self._known[key] = self._inpaint(self._image_HW3, hole_HW)[box].copy()
        filled_HW3 = self._image_HW3.copy()
        np.copyto(filled_HW3[box], self._known[key], where=hole_HW[box][..., None])
        return filled_HW3
