"""Sensor noise: estimation on a high-pass residual, and synthesis inside an inpainted hole.

Inpainters produce smooth background and cameras do not, so a detector could find an edit by its
missing noise. The noise level of the ring around a hole is measured, and what the filled hole lacks
is added to it.

Shapes: H, W image or window; 3 colour (RGB, 0-255); R pixels of a region.
"""

from functools import lru_cache

import cv2
import numpy as np

from pipeline.imaging.region_values import median, values_in

# Width in pixels of the ring around a hole whose noise level the hole should have.
RING = 9
# Gaussian sigma in pixels: wide enough to pass most pixel noise, narrow enough to remove shading.
HIGH_PASS_SIGMA = 1.2
# Grey levels above which a residual counts as texture; texture is not imitated by noise.
MAX_NOISE = 6.0
# Smallest region in pixels for which a noise level is reported.
MIN_PIXELS = 16
# Median absolute deviation to standard deviation, for a normal distribution.
MAD_TO_SIGMA = 1.4826
# Share of noise amplitude that all channels have in common: demosaicing leaves mostly luminance
# noise.
LUMINANCE = 0.7


def add_noise(
    filled_HW3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """`filled_HW3` (float32) with the noise that it lacks inside the hole; elsewhere unchanged.

    The wanted level is that of the ring around the hole in `image_HW3` (uint8). Draws one shared
    and one per-channel noise field of the whole size from `rng`, in this order.
    """
    around_3 = np.minimum(noise_level(image_HW3, ring_of(hole_HW)), MAX_NOISE)
    inside_3 = noise_level(filled_HW3, hole_HW)
    # Variances of independent noise add up. The levels are those after the high pass, so the level
    # of the white noise to add is divided by the filter's gain.
    missing_3 = np.sqrt(np.maximum(around_3**2 - inside_3**2, 0)) / _high_pass_gain()
    common_HW1 = rng.standard_normal((*hole_HW.shape, 1), np.float32)
    single_HW3 = rng.standard_normal(filled_HW3.shape, np.float32)
    added_HW3 = LUMINANCE * common_HW1 + np.sqrt(1 - LUMINANCE**2) * single_HW3
    return np.where(hole_HW[..., None], filled_HW3 + added_HW3 * missing_3, filled_HW3).astype(
        np.float32
    )


def noise_level(image_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """Robust standard deviation (MAD) of the high-pass residual over a region, (3,) float32.

    Zeros for regions below `MIN_PIXELS`.
    """
    if np.count_nonzero(where_HW) < MIN_PIXELS:
        return np.zeros(3, np.float32)
    return residual_level(high_pass(image_HW3), where_HW)


def residual_level(residual_HW3: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """`noise_level` of a region, given the image's `high_pass`."""
    if np.count_nonzero(where_HW) < MIN_PIXELS:
        return np.zeros(3, np.float32)
    deviation_3 = median(np.abs(values_in(residual_HW3, where_HW)))
    return (MAD_TO_SIGMA * deviation_3).astype(np.float32)


def high_pass(image_HW3: np.ndarray) -> np.ndarray:
    """The image minus its Gaussian blur, (H, W, 3) float32."""
    image_HW3 = image_HW3.astype(np.float32)
    return image_HW3 - cv2.GaussianBlur(image_HW3, (0, 0), HIGH_PASS_SIGMA)


def ring_of(mask_HW: np.ndarray) -> np.ndarray:
    """The pixels outside the mask and within RING of it (a square neighbourhood), (H, W) bool."""
    kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
    return cv2.dilate(mask_HW.astype(np.uint8), kernel).astype(np.bool_) & ~mask_HW


@lru_cache
def _high_pass_gain() -> float:
    """Factor by which `high_pass` scales the standard deviation of white noise.

    It is the L2 norm of the filter's impulse response.
    """
    # The Gaussian is negligible beyond six sigma.
    radius = 8
    delta = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    delta[radius, radius] = 1
    kernel = delta - cv2.GaussianBlur(delta, (0, 0), HIGH_PASS_SIGMA)
    return float(np.sqrt((kernel**2).sum()))
