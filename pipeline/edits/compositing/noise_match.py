"""Match the sensor noise of a region to another one: inpainting and resampling smooth it away.

Levels are measured on the calmest quarter of a region, so that an edge or an object that crosses it
does not count as noise. On flat background the result equals `imaging.noise.noise_level`, which
uses the median.

Shapes: h, w window; 3 colour (RGB, float32, 0-255); R pixels of a region.
"""

import cv2
import numpy as np

from pipeline.imaging.noise import HIGH_PASS_SIGMA, LUMINANCE, MAX_NOISE, high_pass, noise_level
from pipeline.imaging.region_values import put_values, values_in

# Lower quartile of the absolute value to standard deviation, for a normal distribution.
QUARTILE_TO_SIGMA = 1 / 0.31864
# Pixels below which a level is not reliable and 0 is returned.
ENOUGH = 32


def calm_level(image_hw3: np.ndarray, where_hw: np.ndarray) -> np.ndarray:
    """Noise level of the calmer part of a region, (3,) float32 grey levels.

    The standard deviation of the high-pass residual, estimated from its lower quartile and capped
    at `MAX_NOISE`.
    """
    if np.count_nonzero(where_hw) < ENOUGH:
        return np.zeros(3, np.float32)
    residual_3R = np.abs(np.ascontiguousarray(values_in(high_pass(image_hw3), where_hw).T))
    # Partition instead of quantile: no full sort, and no interpolation between pixels.
    quartile = residual_3R.shape[1] // 4
    level_3 = QUARTILE_TO_SIGMA * np.partition(residual_3R, quartile, axis=1)[:, quartile]
    return np.minimum(level_3, MAX_NOISE).astype(np.float32)


def with_noise(
    pixels_hw3: np.ndarray,
    where_hw: np.ndarray,
    wanted_3: np.ndarray,
    rng: np.random.Generator,
    core_hw: np.ndarray | None = None,
) -> np.ndarray:
    """The image with noise added in a region until it has the wanted level there; float32.

    `wanted_3` is a level as `calm_level` measures it. The present level is measured in `core_hw`,
    by default in the whole region.
    """
    present_3 = noise_level(pixels_hw3, where_hw if core_hw is None else core_hw)
    # Variances of independent noise add up.
    missing_3 = np.sqrt(np.maximum(wanted_3**2 - present_3**2, 0)) / HIGH_PASS_GAIN
    count = int(np.count_nonzero(where_hw))
    # One draw shared by the channels, one of their own; Python floats keep the arrays float32.
    noise_R3 = LUMINANCE * rng.standard_normal((count, 1), np.float32)
    noise_R3 = noise_R3 + (1 - LUMINANCE**2) ** 0.5 * rng.standard_normal((count, 3), np.float32)
    noisy_hw3 = pixels_hw3.astype(np.float32)
    added_R3 = noise_R3 * missing_3.astype(np.float32)
    put_values(noisy_hw3, where_hw, values_in(noisy_hw3, where_hw) + added_R3)
    return noisy_hw3


def background_near(hole_hw: np.ndarray, objects_hw: np.ndarray, width: int) -> np.ndarray:
    """The ring of `width` pixels around a hole, without the objects in it if enough remains."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    ring_hw = cv2.dilate(hole_hw.astype(np.uint8), kernel).astype(np.bool_) & ~hole_hw
    # Objects are dilated by two pixels, so that their outlines do not count as noise either.
    free_hw = ring_hw & ~cv2.dilate(objects_hw.astype(np.uint8), np.ones((5, 5))).astype(np.bool_)
    return free_hw if np.count_nonzero(free_hw) >= 2 * ENOUGH else ring_hw


def _high_pass_gain() -> float:
    """Factor by which `high_pass` scales the standard deviation of white noise.

    It is the L2 norm of the filter's impulse response, measured through `high_pass` itself. The
    window differs from that of `imaging.noise`, and with it the last digits, which pixels depend
    on.
    """
    side = 8 * int(np.ceil(HIGH_PASS_SIGMA)) + 1
    delta_hw3 = np.zeros((side, side, 3), np.float32)
    delta_hw3[side // 2, side // 2] = 1
    return float(np.sqrt((high_pass(delta_hw3)[..., 0] ** 2).sum()))


HIGH_PASS_GAIN = _high_pass_gain()
