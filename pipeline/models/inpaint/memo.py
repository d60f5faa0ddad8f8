"""Filling the same hole of the same image only once.

Removing an object, moving it, doubling it and putting it back all ask for the ground behind it:
the very same hole, and an inpainter gives the same answer every time. A network takes a third of
a second for it, so it is asked once per image and hole.
"""

import numpy as np

from pipeline.models.inpaint.base import Inpainter
from pipeline.records import bounding_box


class Refill:
    """An inpainter that remembers the holes of one image; made anew for every image.

    What it gives is the inpainter's answer inside the hole and the image outside of it. Only the
    box of each hole is kept: a few kilobytes, however many edits an image gets.
    """

    def __init__(self, inpaint: Inpainter) -> None:
        self._inpaint = inpaint
        self._image_HW3: np.ndarray | None = None
        self._known: dict[tuple[int, int, int, int, bytes], np.ndarray] = {}

    def __call__(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        """RGB uint8 of the image's size, as from any inpainter."""
        if image_HW3 is not self._image_HW3:  # another picture: what is known is of no use
            self._image_HW3, self._known = image_HW3, {}
        x0, y0, x1, y1 = bounding_box(hole_HW)
        box = slice(y0, y1), slice(x0, x1)
        key = (x0, y0, x1, y1, np.packbits(hole_HW[box]).tobytes())
        if key not in self._known:
            self._known[key] = self._inpaint(image_HW3, hole_HW)[box].copy()
        filled_HW3 = image_HW3.copy()
        np.copyto(filled_HW3[box], self._known[key], where=hole_HW[box][..., None])
        return filled_HW3
