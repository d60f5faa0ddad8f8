"""The colour of the background around a part, and how a place differs from it.

A plane in CIELAB, fitted to the most common colour of a region so that stripes do not pull it, and
slow deviations from the plane. Differences are counted in spreads of the region itself: what stands
out on plain paper is lost on wood.

Shapes: h, w window; 3 colour (CIELAB, float32); R pixels of a region.
"""

import cv2
import numpy as np

from pipeline.imaging.region_values import copy_region, median, quantile, values_in

# CIELAB spread (L, a, b) below which a background counts as plain, where its plane is fitted.
PLAIN = np.array([1.0, 0.5, 0.5], np.float32)
# Pixels of which the plane is fitted.
FITTED = 600
# Factor by which images shrink for blurs that are wide anyway.
SLOWER = 4
# Part of the deviations that are surely no stripes or stains, and its quantile in spreads.
CALM, CALM_SPREADS = 0.35, 0.4538


def deviation(
    lab_hw3: np.ndarray, far_hw: np.ndarray, least_3: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How a window differs from the background that `far_hw` shows: the difference (h, w, 3), and
    its length in spreads of the background (h, w), float32; no spread is below `least_3`."""
    residual_hw3 = lab_hw3 - _plane(lab_hw3, far_hw)
    most_3 = 3 * _spread(values_in(residual_hw3, far_hw), least_3)
    within_hw3 = np.abs(residual_hw3) <= _by_row(most_3, residual_hw3)
    # Channels are combined by hand, here and below: NumPy is slow along an axis of three.
    calm_hw = far_hw & within_hw3[..., 0] & within_hw3[..., 1] & within_hw3[..., 2]
    # Slow deviations from the plane, as far as the background around tells of them.
    residual_hw3 = residual_hw3 - _slow(residual_hw3, calm_hw)
    spread_3 = _spread(values_in(residual_hw3, far_hw), least_3)
    return residual_hw3, np.sqrt(_length2(residual_hw3 / _by_row(spread_3, residual_hw3)))


def _by_row(values_3: np.ndarray, image_hw3: np.ndarray) -> np.ndarray:
    """One value per channel, (w, 3), for arithmetic with an image."""
    return np.full(image_hw3.shape[1:], values_3)


def _length2(vectors_hw3: np.ndarray) -> np.ndarray:
    """The squared length of the vector of each pixel, (h, w)."""
    squares_hw3 = np.square(vectors_hw3)
    total_hw: np.ndarray = squares_hw3[..., 0] + squares_hw3[..., 1] + squares_hw3[..., 2]
    return total_hw


def _slow(residual_hw3: np.ndarray, calm_hw: np.ndarray) -> np.ndarray:
    """The mean of a region's values around every pixel, 0 where there are none, (h, w, 3)."""
    height, width = calm_hw.shape
    # So wide a blur needs no full resolution.
    small = max(1, width // SLOWER), max(1, height // SLOWER)
    weight_hw = cv2.resize(calm_hw.astype(np.float32), small, interpolation=cv2.INTER_AREA)
    calm_hw3 = np.zeros_like(residual_hw3)
    copy_region(residual_hw3, calm_hw, calm_hw3)
    sums_hw3 = cv2.resize(calm_hw3, small, interpolation=cv2.INTER_AREA)
    sigma = max(small) / 8
    weight_hw = cv2.GaussianBlur(weight_hw, (0, 0), sigma)[..., None]
    slow_hw3 = cv2.GaussianBlur(sums_hw3, (0, 0), sigma) / np.maximum(weight_hw, 0.02)
    return cv2.resize(slow_hw3, (width, height), interpolation=cv2.INTER_LINEAR)


def _plane(lab_hw3: np.ndarray, far_hw: np.ndarray) -> np.ndarray:
    """The plane through the most common colour of a region, (h, w, 3); stripes do not pull it."""
    height, width = far_hw.shape
    terms_hw3 = np.ones((height, width, 3), np.float32)
    terms_hw3[..., 1] = np.arange(width, dtype=np.float32) / width - 0.5
    terms_hw3[..., 2] = (np.arange(height, dtype=np.float32) / height - 0.5)[:, None]
    step = max(1, np.count_nonzero(far_hw) // FITTED)
    terms_R3, colours_R3 = (values_in(one, far_hw)[::step] for one in (terms_hw3, lab_hw3))
    fitted_R3 = np.broadcast_to(median(colours_R3), colours_R3.shape)
    for _ in range(5):
        off_R3 = colours_R3 - fitted_R3
        # Tukey's biweight: what is far away has no weight at all.
        share_R = _length2(off_R3 / (4.5 * _spread(off_R3, PLAIN)))
        weight_R1 = np.clip(1 - share_R, 0, 1)[:, None]
        # The normal equations: three unknowns need no decomposition of all pixels.
        weighed_R3 = (terms_R3 * weight_R1).astype(np.float64)
        gram_33 = weighed_R3.T @ weighed_R3
        moments_33 = weighed_R3.T @ (colours_R3 * weight_R1)
        plane_33 = np.linalg.lstsq(gram_33, moments_33, rcond=None)[0].astype(np.float32)
        fitted_R3 = terms_R3 @ plane_33
    return (terms_hw3 @ plane_33).astype(np.float32)


def _spread(residual_R3: np.ndarray, least_3: np.ndarray) -> np.ndarray:
    """The standard deviation of the calmer part of the deviations, (3,), at least `least_3`."""
    calm_3 = quantile(np.abs(residual_R3), CALM) / CALM_SPREADS
    return np.maximum(calm_3, least_3).astype(np.float32)


def lab_of(image_hw3: np.ndarray) -> np.ndarray:
    """An image or a window of one (RGB, 0-255) in CIELAB, float32."""
    lab_hw3: np.ndarray = cv2.cvtColor(image_hw3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab_hw3


def smooth_lab(image_hw3: np.ndarray, sigma: float) -> np.ndarray:
    """The same without its finest noise."""
    return cv2.GaussianBlur(lab_of(image_hw3), (0, 0), sigma)


def gradient(lab_hw3: np.ndarray) -> np.ndarray:
    """How much the colour changes per pixel, (h, w)."""
    along_hw3, down_hw3 = (
        cv2.Sobel(lab_hw3, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))
    )
    return np.sqrt(_length2(along_hw3) + _length2(down_hw3))
