"""Artifacts that an edit leaves in an image: an outline along its mask, foreign noise, clipping.

All are measured on the edited image alone. Untouched regions of normal images can therefore be
measured in the same way, and the limits of the gate are calibrated on them (`gate.calibration`).
Crop to `masks.window` first: the cost of every measure grows with the array.

Shapes: H, W image or window; 3 colour (RGB, uint8).
"""

import cv2
import numpy as np

from pipeline.imaging.noise import high_pass, residual_level, ring_of
from pipeline.imaging.region_values import values_in

# Pixels around a mask that the measures depend on: the noise ring, the bands, and their filters.
MARGIN = 24
# Width in pixels of the bands inside and outside an outline.
BAND = 2
# Noise in grey levels below which a surface counts as noiseless; the ratio is then meaningless.
MIN_NOISE = 0.35
# Grey levels per pixel added to both sides of a gradient ratio, so that flat background, which has
# no gradient, does not divide by zero or blow up small steps.
GRADIENT_FLOOR = 2.0
# A pixel is clipped when all its three channels are at or beyond one of these.
DARK, BRIGHT = 1, 254


def outline_ratio(
    image_HW3: np.ndarray, where_HW: np.ndarray, gradient_HW: np.ndarray | None = None
) -> float:
    """Mean gradient on a region's outline divided by that of the bands on both its sides.

    1 means that the outline does not stand out; also returned when outline or bands are empty.
    `gradient_HW` is the image's, where it is known already.
    """
    on_HW, inside_HW, outside_HW = bands(where_HW)
    beside_HW = inside_HW | outside_HW
    if not on_HW.any() or not beside_HW.any():
        return 1.0
    if gradient_HW is None:
        gradient_HW = gradient(image_HW3)
    return float(
        (gradient_HW[on_HW].mean() + GRADIENT_FLOOR)
        / (gradient_HW[beside_HW].mean() + GRADIENT_FLOOR)
    )


def bands(where_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels on a region's outline (one on each side), and the bands inside and outside it.

    Three (H, W) bool masks.
    """
    mask_HW = where_HW.astype(np.uint8)
    near = np.ones((3, 3), np.uint8)
    far = np.ones((2 * BAND + 5, 2 * BAND + 5), np.uint8)
    on_HW = (cv2.dilate(mask_HW, near) > 0) & (cv2.erode(mask_HW, near) == 0)
    # A pixel's gradient depends on its neighbours, so one pixel stays free between outline and
    # bands.
    gap = np.ones((5, 5), np.uint8)
    outside_HW = (cv2.dilate(mask_HW, far) > 0) & (cv2.dilate(mask_HW, gap) == 0)
    inside_HW = (cv2.erode(mask_HW, gap) > 0) & (cv2.erode(mask_HW, far) == 0)
    return on_HW, inside_HW, outside_HW


def noise_ratio(image_HW3: np.ndarray, inside_HW: np.ndarray, change_HW: np.ndarray) -> float:
    """Noise level of a region divided by that of the ring around the whole change mask.

    1 where the surroundings are noiseless (below `MIN_NOISE`), as in rendered images.
    """
    residual_HW3 = high_pass(image_HW3)
    around = float(residual_level(residual_HW3, ring_of(change_HW)).mean())
    if around < MIN_NOISE:
        return 1.0
    return float(residual_level(residual_HW3, inside_HW).mean()) / around


def clipped_share(image_HW3: np.ndarray, where_HW: np.ndarray) -> float:
    """Share of a region's pixels that are fully black or fully white; 0 for an empty region."""
    inside_N3 = values_in(image_HW3, where_HW)
    if not len(inside_N3):
        return 0.0
    # Maximum and minimum of three channels by pairs: a reduction over so short an axis is slow.
    low_N = np.maximum(np.maximum(inside_N3[:, 0], inside_N3[:, 1]), inside_N3[:, 2])
    high_N = np.minimum(np.minimum(inside_N3[:, 0], inside_N3[:, 1]), inside_N3[:, 2])
    return float(((low_N <= DARK) | (high_N >= BRIGHT)).mean())


def gradient(image_HW3: np.ndarray) -> np.ndarray:
    """Gradient magnitude in grey levels per pixel, (H, W) float32, by 3 x 3 Sobel kernels."""
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    dx = cv2.Sobel(grey_HW, cv2.CV_32F, 1, 0, scale=1 / 8)
    dy = cv2.Sobel(grey_HW, cv2.CV_32F, 0, 1, scale=1 / 8)
    # Not cv2.magnitude: its last digit depends on the memory alignment of the image. Here squares
    # and sums are exact (multiples of 1/64 below 2**24), and the root is correctly rounded.
    return np.sqrt(dx * dx + dy * dy)
