"""Inpainter and Filler protocols, the context window around a hole, and OpenCV's inpainters.

An inpainter removes: it is called with an RGB uint8 image, a bool hole and, optionally, what must
not be copied into it, and returns RGB uint8 of the same size. It sees a window around the hole, so
its cost depends on the hole and not on the image. The compositor discards whatever it changes
outside the hole. A filler generates new content from a prompt and a seed.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import cv2
import numpy as np

from pipeline.imaging.masks import disjoint
from pipeline.records import bounding_box


class Inpainter(Protocol):
    """(image_HW3 uint8, hole_HW bool, avoid_HW bool or None) -> image_HW3 uint8.

    `avoid_HW` are pixels that are no background of the hole: other parts, and the halo of the
    removed one. Only an inpainter that copies needs it; networks and OpenCV use the pixels around
    the hole whatever they are.
    """

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None, /
    ) -> np.ndarray: ...


# The same on a window that holds the hole: (image_hw3, hole_hw) -> image_hw3.
WindowFill = Callable[[np.ndarray, np.ndarray], np.ndarray]

# `fill` inpaints inside the mask; `replace` keeps the inside and inpaints everything around it.
FillMode = Literal["fill", "replace"]

# (image_HW3 uint8, mask_HW bool, prompt, seed, mode) -> image_HW3 uint8. Kept pixels are
# byte-identical to the image; an empty mask changes nothing in either mode.
Filler = Callable[[np.ndarray, np.ndarray, str, int, FillMode], np.ndarray]

# Smallest side in px of the window that an inpainter sees around a hole.
MIN_WINDOW = 128
# Side of the window as a multiple of the hole's longer side: a square hole is a ninth of it.
CONTEXT = 3.0
# Sides of a window are multiples of this where the image allows it, as LaMa halves them 3 times.
MULTIPLE = 8

# The manifest's names of the two algorithms.
OPENCV_METHODS = {"telea": cv2.INPAINT_TELEA, "ns": cv2.INPAINT_NS}


class OpenCvInpainter:
    """`cv2.inpaint`: `telea` (Telea, 2004) or `ns`, Navier-Stokes (Bertalmio et al., 2001)."""

    # Neighbourhood in px that each pixel is interpolated from.
    RADIUS = 5

    def __init__(self, method: str) -> None:
        self._flag = OPENCV_METHODS[method]

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        return in_window(self._fill, image_HW3, hole_HW)

    def _fill(self, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        return cv2.inpaint(
            np.ascontiguousarray(image_HW3), hole_HW.astype(np.uint8), self.RADIUS, self._flag
        )


def in_window(fill: WindowFill, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """Run `fill` on a window around the hole and paste the result; an empty hole costs nothing."""
    if not hole_HW.any():
        return image_HW3.copy()
    x0, y0, x1, y1 = window(bounding_box(hole_HW), hole_HW.shape)
    result_HW3 = image_HW3.copy()
    inner = np.ascontiguousarray(image_HW3[y0:y1, x0:x1])
    result_HW3[y0:y1, x0:x1] = fill(inner, np.ascontiguousarray(hole_HW[y0:y1, x0:x1]))
    return result_HW3


def in_groups(
    inpaint: Inpainter,
    image_HW3: np.ndarray,
    hole_HW: np.ndarray,
    avoid_HW: np.ndarray | None = None,
) -> np.ndarray:
    """Fill a hole of several pieces, pieces that are far apart one by one; RGB uint8.

    Two objects that trade places leave one hole whose window would be most of the image. Pieces
    count as far apart when none of them reaches into the window of the other. The last argument is
    that of an `Inpainter`.
    """
    groups = _groups(hole_HW)
    if len(groups) < 2:
        return inpaint(image_HW3, hole_HW, avoid_HW)
    result_HW3 = image_HW3.copy()
    for group_HW in groups:
        others_HW = hole_HW & ~group_HW
        avoided_HW = others_HW if avoid_HW is None else avoid_HW | others_HW
        np.copyto(result_HW3, inpaint(image_HW3, group_HW, avoided_HW), where=group_HW[..., None])
    return result_HW3


def _groups(hole_HW: np.ndarray) -> list[np.ndarray]:
    """The pieces of a hole, (H, W) bool, those in each other's windows together."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(hole_HW.astype(np.uint8))
    # Label 0 is what is no hole.
    boxes = [(x, y, x + w, y + h) for x, y, w, h, _ in stats[1:].tolist()]
    if len(boxes) == 1:
        return [hole_HW]
    group = list(range(len(boxes)))
    for one, box_4 in enumerate(boxes):
        seen_4 = window(box_4, hole_HW.shape)
        for other in range(len(boxes)):
            if not disjoint(seen_4, boxes[other]) and group[other] != group[one]:
                group = [group[one] if g == group[other] else g for g in group]
    of_label = np.array([-1, *group])
    return [of_label[labels_HW] == number for number in sorted(set(group))]


def window(
    box_4: tuple[int, int, int, int],
    size: tuple[int, ...],
    least: int = MIN_WINDOW,
    context: float = CONTEXT,
) -> tuple[int, int, int, int]:
    """The window around a box: `context` times its size, shifted into the image, cropped to it.

    Boxes are x0, y0, x1, y1 in px with exclusive end; `size` is (height, width, ...). No side of
    the window is shorter than `least` px, unless the image is.
    """
    x0, y0, x1, y1 = box_4
    side = max(least, round(context * max(x1 - x0, y1 - y0)))
    # Round up to the next multiple.
    side += -side % MULTIPLE
    left, right = _span((x0 + x1) // 2, side, size[1])
    top, bottom = _span((y0 + y1) // 2, side, size[0])
    return left, top, right, bottom


def _span(centre: int, side: int, limit: int) -> tuple[int, int]:
    """Start and end of `side` px around the centre, shifted into 0..limit."""
    start = min(max(0, centre - side // 2), max(0, limit - side))
    return start, min(limit, start + side)
