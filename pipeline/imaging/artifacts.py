"""Marks that an edit leaves in a picture: a line along its mask, foreign grain, clipped pixels.

All are measured on the edited picture alone, so that untouched regions of normals can be measured
in the same way: that is where the limits come from (`normality`). Crop to `window` first.

Shapes: H, W picture or window; 3 colour (RGB, uint8).
"""

import cv2
import numpy as np

from pipeline.imaging.noise import high_pass, level_of, ring_of

MARGIN = 24
"""Pixels around a mask that the marks depend on: the ring of grain, bands, and their filters."""
BAND = 2
"""Width in pixels of the bands on and beside an outline."""
MIN_GRAIN = 0.35
"""Grain in grey levels below which a surface counts as noiseless and the ratio says nothing."""
FLAT = 2.0
"""Grey levels per pixel added to both sides of a ratio of gradients: flat ground has none."""
DARK, BRIGHT = 1, 254
"""A pixel is clipped when its three channels are all at or beyond one of these."""


def outline_ratio(image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Gradient on a region's outline against both bands beside it; 1 where nothing is to see."""
    on_HW, inside_HW, outside_HW = bands(where_HW)
    beside_HW = inside_HW | outside_HW
    if not on_HW.any() or not beside_HW.any():
        return 1.0
    gradient_HW = gradient(image_HW3)
    return float((gradient_HW[on_HW].mean() + FLAT) / (gradient_HW[beside_HW].mean() + FLAT))


def bands(where_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels on a region's outline (one on each side), and the bands inside and outside it.

    A pixel's gradient looks at its neighbours, so one pixel stays free between outline and bands.
    """
    mask_HW = where_HW.astype(np.uint8)
    near = np.ones((3, 3), np.uint8)
    far = np.ones((2 * BAND + 5, 2 * BAND + 5), np.uint8)
    on_HW = (cv2.dilate(mask_HW, near) > 0) & (cv2.erode(mask_HW, near) == 0)
    gap = np.ones((5, 5), np.uint8)
    outside_HW = (cv2.dilate(mask_HW, far) > 0) & (cv2.dilate(mask_HW, gap) == 0)
    inside_HW = (cv2.erode(mask_HW, gap) > 0) & (cv2.erode(mask_HW, far) == 0)
    return on_HW, inside_HW, outside_HW


def noise_ratio(image_HW3: np.ndarray, inside_HW: np.ndarray, change_HW: np.ndarray) -> float:
    """Grain of a region against that of the ring around the whole change; 1 on noiseless ground."""
    residual_HW3 = high_pass(image_HW3)
    around = float(level_of(residual_HW3, ring_of(change_HW)).mean())
    if around < MIN_GRAIN:
        return 1.0
    return float(level_of(residual_HW3, inside_HW).mean()) / around


def clipped_share(image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Share of a region's pixels that are wholly black or wholly white."""
    inside_N3 = image_HW3[where_HW]
    if not len(inside_N3):
        return 0.0
    low_N = np.maximum(np.maximum(inside_N3[:, 0], inside_N3[:, 1]), inside_N3[:, 2])
    high_N = np.minimum(np.minimum(inside_N3[:, 0], inside_N3[:, 1]), inside_N3[:, 2])
    return float(((low_N <= DARK) | (high_N >= BRIGHT)).mean())


def gradient(image_HW3: np.ndarray) -> np.ndarray:
    """Grey levels per pixel, float32, by Sobel's kernels."""
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    dx = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1, scale=1 / 8)
    # Not cv2.magnitude: its last digit depends on where in memory the picture begins. Here squares
    # and sums are exact (eighths below 2**24), and the root is correctly rounded.
    return np.sqrt(dx * dx + dy * dy)
