"""Windows on single parts: cut out of an image and enlarged, and maps of them put back into it.

Shapes: H, W image; S, S enlarged window; h, w cells of it; trailing colour axis or none.
"""

from typing import NamedTuple

import cv2
import numpy as np

from detectors.base import Box
from pipeline.imaging.masks import bounding_box

# Cells of at least this share of the highest distance belong to what is shown.
NEAR_PEAK = 0.75


class Window(NamedTuple):
    """A square: left and top in pixels of the image, beyond which it may reach, and its side."""

    left: float
    top: float
    side: float

    def cut(self, image_HW: np.ndarray, pixels: int) -> np.ndarray:
        """The window with a side of `pixels`; beyond its border the image is mirrored."""
        scale = pixels / self.side
        forth_23 = np.array([
            [scale, 0, (0.5 - self.left) * scale - 0.5],
            [0, scale, (0.5 - self.top) * scale - 0.5],
        ])  # fmt: skip
        return cv2.warpAffine(
            image_HW, forth_23, (pixels, pixels), flags=cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REFLECT,
        )  # fmt: skip

    def put_back(self, cells_hw: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """A map of the window's cells in an image of this shape, (H, W) float32; 0 beside it."""
        cell = self.side / len(cells_hw)
        forth_23 = np.array([
            [cell, 0, self.left + 0.5 * cell - 0.5], [0, cell, self.top + 0.5 * cell - 0.5]
        ])  # fmt: skip
        height, width = shape
        return cv2.warpAffine(cells_hw.astype(np.float32), forth_23, (width, height))


def window_around(mask_HW: np.ndarray, side: float) -> Window:
    """The window with this side whose centre is that of the mask's box."""
    x0, y0, x1, y1 = bounding_box(mask_HW)
    return Window((x0 + x1 - side) / 2, (y0 + y1 - side) / 2, side)


def peak_box(map_HW: np.ndarray) -> Box:
    """The box around the highest value of a map and what is nearly as high beside it."""
    return bounding_box(peak_of(map_HW))


def peak_of(map_HW: np.ndarray) -> np.ndarray:
    """The highest value of a map and what is nearly as high beside it, (H, W) bool."""
    near_HW = (map_HW >= NEAR_PEAK * map_HW.max()).astype(np.uint8)
    _, labels_HW = cv2.connectedComponents(near_HW)
    peak_HW: np.ndarray = labels_HW == labels_HW.flat[int(map_HW.argmax())]
    return peak_HW
