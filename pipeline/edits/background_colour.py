"""The colour of the background around a part, and how a place differs from it.

A plane in CIELAB, fitted to the most common colour of a region so that stripes do not pull it, and
slow deviations from the plane. Differences are counted in spreads of the region itself: what stands
out on plain paper is lost on wood.

Shapes: h, w window; 3 colour (CIELAB, float32); R pixels of a region.
"""

import cv2
import numpy as np

from pipeline.imaging.products import lengths, products
from pipeline.imaging.region_values import copy_region, median, quantile

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
    # Only here the background is known: most of the work is done on these pixels.
    far_R = far_hw.ravel().nonzero()[0]
    residual_hw3 = lab_hw3 - _plane(lab_hw3, far_R)
    size_3R = np.abs(_channels(residual_hw3, far_R))
    calm_3R = size_3R <= 3 * _spread(size_3R.copy(), least_3)[:, None]
    # Slow deviations from the plane, as far as the background around tells of them.
    calm_hw, calm_hw3 = np.zeros(far_hw.shape, np.bool_), np.zeros_like(residual_hw3)
    calm_hw.reshape(-1)[far_R] = calm_3R[0] & calm_3R[1] & calm_3R[2]
    copy_region(residual_hw3, calm_hw, calm_hw3)
    residual_hw3 -= _slow(calm_hw3, calm_hw.astype(np.float32))
    spread_3 = _spread(np.abs(_channels(residual_hw3, far_R)), least_3)
    spreads_hw3 = residual_hw3 / _by_row(spread_3, residual_hw3)
    return residual_hw3, lengths(spreads_hw3)


def _channels(image_hw3: np.ndarray, at_R: np.ndarray) -> np.ndarray:
    """The pixels at some flat indices, (3, R): rows of one channel are fast to compare and rank."""
    channels_3R: np.ndarray = cv2.transpose(image_hw3.reshape(-1, 3).take(at_R, axis=0))
    return channels_3R


def _by_row(values_3: np.ndarray, image_hw3: np.ndarray) -> np.ndarray:
    """One value per channel, (w, 3), for arithmetic with an image."""
    return np.full(image_hw3.shape[1:], values_3)


def _slow(sums_hw3: np.ndarray, weight_hw: np.ndarray) -> np.ndarray:
    """The mean of a region's values around every pixel, 0 where there are none, (h, w, 3).

    `weight_hw` is 1 in the region and `sums_hw3` its values there, both 0 elsewhere, float32.
    """
    height, width = weight_hw.shape
    # So wide a blur needs no full resolution.
    small = max(1, width // SLOWER), max(1, height // SLOWER)
    weight_hw = cv2.resize(weight_hw, small, interpolation=cv2.INTER_AREA)
    sums_hw3 = cv2.resize(sums_hw3, small, interpolation=cv2.INTER_AREA)
    sigma = max(small) / 8
    weight_hw = cv2.GaussianBlur(weight_hw, (0, 0), sigma)[..., None]
    slow_hw3 = cv2.GaussianBlur(sums_hw3, (0, 0), sigma) / np.maximum(weight_hw, 0.02)
    return cv2.resize(slow_hw3, (width, height), interpolation=cv2.INTER_LINEAR)


def _plane(lab_hw3: np.ndarray, far_R: np.ndarray) -> np.ndarray:
    """The plane through the most common colour of a region (flat indices), (h, w, 3); stripes do
    not pull it."""
    height, width = lab_hw3.shape[:2]
    x_W = np.arange(width, dtype=np.float32) / width - 0.5
    y_H = np.arange(height, dtype=np.float32) / height - 0.5
    at_R = far_R[:: max(1, len(far_R) // FITTED)]
    rows_R, columns_R = np.divmod(at_R, width)
    # Channels first: every step below is one call on rows of pixels.
    terms_3R = np.stack([np.ones(len(at_R), np.float32), x_W[columns_R], y_H[rows_R]])
    colours_3R = _channels(lab_hw3, at_R)
    fitted_3R = median(colours_3R.copy().T)[:, None]
    for _ in range(5):
        off_3R = colours_3R - fitted_3R
        # Tukey's biweight: what is far away has no weight at all.
        off_3R /= (4.5 * _spread(np.abs(off_3R), PLAIN))[:, None]
        np.square(off_3R, out=off_3R)
        weight_R = np.maximum(1 - (off_3R[0] + off_3R[1] + off_3R[2]), 0)
        # The normal equations: three unknowns need no decomposition of all pixels.
        weighed_3R = (terms_3R * weight_R).astype(np.float64)
        gram_33 = weighed_3R @ weighed_3R.T
        moments_33 = weighed_3R @ (colours_3R * weight_R).T
        plane_33 = cv2.solve(gram_33, moments_33, flags=cv2.DECOMP_SVD)[1].astype(np.float32)
        fitted_3R = plane_33.T @ terms_3R
    # By row and by column: the plane is the product of two small matrices.
    first_3, along_3, down_3 = plane_33
    across_2w = np.stack([(first_3 + along_3 * x_W[:, None]).ravel(), np.tile(down_3, width)])
    plane_hw = np.stack([np.ones_like(y_H), y_H], 1) @ across_2w
    return plane_hw.reshape(height, width, 3)


def _spread(sizes_3R: np.ndarray, least_3: np.ndarray) -> np.ndarray:
    """The standard deviation of the calmer part of deviations (their absolute values), (3,), at
    least `least_3`. The deviations are sorted in place."""
    calm_3 = quantile(sizes_3R.T, CALM) / CALM_SPREADS
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
    return np.sqrt(products(along_hw3, along_hw3) + products(down_hw3, down_hw3))
