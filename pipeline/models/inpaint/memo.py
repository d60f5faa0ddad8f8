"""Inpaint the same hole of an image only once.

Removing an object, moving it, duplicating it and putting it back all need the background behind it:
the very same hole, and an inpainter gives the same answer every time. A network takes a third of a
second for it, so it runs once per image and hole.
"""

import numpy as np

from pipeline.models.inpaint.base import Inpainter
from pipeline.records import bounding_box


class MemoInpainter:
    """The inpainter of one image, which remembers its holes.

    What it gives is the inpainter's answer inside the hole and the image outside of it. Only the
    box of each hole is kept: a few kilobytes, however many edits an image gets.
    """

    def __init__(self, inpaint: Inpainter, image_HW3: np.ndarray) -> None:
        self._inpaint, self._image_HW3 = inpaint, image_HW3
        self._known: dict[tuple[int, int, int, int, bytes], np.ndarray] = {}

    def __call__(self, hole_HW: np.ndarray) -> np.ndarray:
        """The image with the hole (bool) filled, RGB uint8 of the image's size."""
        x0, y0, x1, y1 = bounding_box(hole_HW)
        box = slice(y0, y1), slice(x0, x1)
        key = (x0, y0, x1, y1, np.packbits(hole_HW[box]).tobytes())
        if key not in self._known:
            self._known[key] = self._inpaint(self._image_HW3, hole_HW)[box].copy()
        filled_HW3 = self._image_HW3.copy()
        np.copyto(filled_HW3[box], self._known[key], where=hole_HW[box][..., None])
        return filled_HW3
