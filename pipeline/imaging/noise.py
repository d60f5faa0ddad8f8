"""Sensor grain: an inpainter paints smooth ground, a camera does not, and detectors notice.

The grain of the ring around a hole is measured on a high-pass residual and the lacking part is
added inside the hole, so that the noise level there tells nothing about the edit.
"""

from functools import lru_cache

import cv2
import numpy as np

RING = 9
"""Width in pixels of the ring whose grain is the model."""
HIGH_PASS_SIGMA = 1.2
MAX_GRAIN = 6.0
"""Grey levels above which a residual is texture, not grain, and is not imitated by noise."""
ENOUGH = 16
"""Pixels below which a region has no level."""
TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""


def add_grain(
    filled_HW3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`filled_HW3` (float32) with the grain it lacks inside the hole; the rest is untouched."""
    around_3 = np.minimum(grain_level(image_HW3, ring_of(hole_HW)), MAX_GRAIN)
    inside_3 = grain_level(filled_HW3, hole_HW)
    lacking_3 = np.sqrt(np.maximum(around_3**2 - inside_3**2, 0)) / _white_level()
    shared = 0.7  # camera noise is mostly luminance after demosaicing
    common_HW1 = rng.standard_normal((*hole_HW.shape, 1), np.float32)
    single_HW3 = rng.standard_normal(filled_HW3.shape, np.float32)
    noise_HW3 = shared * common_HW1 + np.sqrt(1 - shared**2) * single_HW3
    return np.where(hole_HW[..., None], filled_HW3 + noise_HW3 * lacking_3, filled_HW3).astype(
        np.float32
    )


def grain_level(image_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """Robust standard deviation of the high-pass residual over a region, per channel, float32."""
    if np.count_nonzero(where_HW) < ENOUGH:
        return np.zeros(3, np.float32)
    return level_of(high_pass(image_HW3), where_HW)


def level_of(residual_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """`grain_level` of a region, given the picture's `high_pass`."""
    if np.count_nonzero(where_HW) < ENOUGH:
        return np.zeros(3, np.float32)
    size_3R = np.abs(np.ascontiguousarray(residual_HW3[where_HW].T))
    middle = size_3R.shape[1] // 2  # `np.median`, which is much slower along the first axis
    size_3R = np.partition(size_3R, (middle - 1, middle), axis=1)
    low = middle if size_3R.shape[1] % 2 else middle - 1
    median_3 = (size_3R[:, low] + size_3R[:, middle]) / 2
    return (TO_SIGMA * median_3).astype(np.float32)


def high_pass(image_HW3: np.ndarray) -> np.ndarray:
    """What a small Gaussian takes away, float32."""
    image_HW3 = image_HW3.astype(np.float32)
    return image_HW3 - cv2.GaussianBlur(image_HW3, (0, 0), HIGH_PASS_SIGMA)


def ring_of(mask_HW: np.ndarray) -> np.ndarray:
    """The pixels within RING of the mask and outside it."""
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    return cv2.dilate(mask_HW.astype(np.uint8), kernel).astype(np.bool_) & ~mask_HW


@lru_cache
def _white_level() -> float:
    """Share of white noise's standard deviation that `high_pass` lets through."""
    radius = 8
    delta = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    delta[radius, radius] = 1
    kernel = delta - cv2.GaussianBlur(delta, (0, 0), HIGH_PASS_SIGMA)
    return float(np.sqrt((kernel**2).sum()))
