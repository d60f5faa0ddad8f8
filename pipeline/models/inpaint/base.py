"""Filling holes: what an inpainter and a filler are, the window they see, and OpenCV's two.

Every inpainter is called with an RGB uint8 image and a bool hole and returns RGB uint8 of the
same size. It sees a window around the hole, so cost follows the hole and not the image. Whatever
it does outside the hole is thrown away by the compositor. An inpainter removes; a filler paints
something new, from a prompt and a seed.
"""

from collections.abc import Callable
from typing import Literal

import cv2
import numpy as np

from pipeline.records import bounding_box

Inpainter = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(image_HW3 uint8, hole_HW bool) -> image_HW3 uint8."""

FillMode = Literal["fill", "replace"]
"""`fill` paints inside the mask; `replace` keeps what is inside and paints everything around it."""

Filler = Callable[[np.ndarray, np.ndarray, str, int, FillMode], np.ndarray]
"""(image_HW3 uint8, mask_HW bool, prompt, seed, mode) -> image_HW3 uint8.

What the mode keeps is byte-identical to the image; an empty mask changes nothing in either mode.
"""

MIN_WINDOW = 128
"""Smallest side, in pixels, of the window that an inpainter sees around a hole."""
CONTEXT = 3.0
"""Side of the window as a multiple of the hole's longer side, so that the hole is a ninth of it."""
MULTIPLE = 8
"""Sides of a window are multiples of this where the image allows it; LaMa halves them thrice."""

OPENCV_METHODS = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}


class OpenCvInpainter:
    """`cv2.inpaint`: `telea` (2004) or `ns`, Navier-Stokes (Bertalmio et al., 2001)."""

    RADIUS = 5

    def __init__(self, method: str) -> None:
        self._flag = OPENCV_METHODS[method]

    def __call__(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        return cv2.inpaint(
            np.ascontiguousarray(image_HW3), hole_HW.astype(np.uint8), self.RADIUS, self._flag
        )


def in_window(fill: Inpainter, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """Run `fill` on a window around the hole and put it back; an empty hole costs nothing."""
    if not hole_HW.any():
        return image_HW3.copy()
    x0, y0, x1, y1 = window(bounding_box(hole_HW), hole_HW.shape)
    result_HW3 = image_HW3.copy()
    inner = np.ascontiguousarray(image_HW3[y0:y1, x0:x1])
    result_HW3[y0:y1, x0:x1] = fill(inner, np.ascontiguousarray(hole_HW[y0:y1, x0:x1]))
    return result_HW3


def window(box_4: tuple[int, int, int, int], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """A window of CONTEXT times the box, centred on it, moved inside the image and cut to it."""
    x0, y0, x1, y1 = box_4
    side = max(MIN_WINDOW, round(CONTEXT * max(x1 - x0, y1 - y0)))
    side += -side % MULTIPLE
    left, right = _span((x0 + x1) // 2, side, size[1])
    top, bottom = _span((y0 + y1) // 2, side, size[0])
    return left, top, right, bottom


def _span(centre: int, side: int, limit: int) -> tuple[int, int]:
    start = min(max(0, centre - side // 2), max(0, limit - side))
    return start, min(limit, start + side)
