"""The grain of a region given to another one: an inpainter and a resampler both smooth it away.

Levels are taken from the calm quarter of a region, so that an edge or a part that runs through it
does not count as noise. On flat ground that is the same level as `grain.grain_level`'s median.
"""

import cv2
import numpy as np

from pipeline.imaging.noise import HIGH_PASS_SIGMA, MAX_GRAIN, grain_level, high_pass

QUARTILE_TO_SIGMA = 1 / 0.31864
"""Lower quartile of the absolute value to standard deviation, for a normal distribution."""
LUMINANCE = 0.7
"""Share of camera noise that all three channels have in common after demosaicing."""
ENOUGH = 32
"""Pixels from which a level is worth something."""


def calm_level(image_hw3: np.ndarray, where_hw: np.ndarray) -> np.ndarray:
    """Standard deviation of the high-pass residual in the calmer part of a region, (3,) float32."""
    if np.count_nonzero(where_hw) < ENOUGH:
        return np.zeros(3, np.float32)
    residual_3R = np.abs(np.ascontiguousarray(high_pass(image_hw3)[where_hw].T))
    quartile = residual_3R.shape[1] // 4
    level_3 = QUARTILE_TO_SIGMA * np.partition(residual_3R, quartile, axis=1)[:, quartile]
    return np.minimum(level_3, MAX_GRAIN).astype(np.float32)


def with_grain(
    pixels_hw3: np.ndarray,
    where_hw: np.ndarray,
    wanted_3: np.ndarray,
    rng: np.random.Generator,
    core_hw: np.ndarray | None = None,
) -> np.ndarray:
    """The picture with so much noise in a region that it has the wanted level there; float32.

    The level that it has already is measured in `core_hw`, by default in the whole region.
    """
    present_3 = grain_level(pixels_hw3, where_hw if core_hw is None else core_hw)
    lacking_3 = np.sqrt(np.maximum(wanted_3**2 - present_3**2, 0)) / PASSED
    count = int(np.count_nonzero(where_hw))
    noise_R3 = LUMINANCE * rng.standard_normal((count, 1), np.float32)
    noise_R3 = noise_R3 + (1 - LUMINANCE**2) ** 0.5 * rng.standard_normal((count, 3), np.float32)
    grainy_hw3 = pixels_hw3.astype(np.float32)
    grainy_hw3[where_hw] += noise_R3 * lacking_3.astype(np.float32)
    return grainy_hw3


def ground_near(hole_hw: np.ndarray, parts_hw: np.ndarray, width: int) -> np.ndarray:
    """The ring around a hole, without the parts in it where enough remains."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    ring_hw = cv2.dilate(hole_hw.astype(np.uint8), kernel).astype(np.bool_) & ~hole_hw
    free_hw = ring_hw & ~cv2.dilate(parts_hw.astype(np.uint8), np.ones((5, 5))).astype(np.bool_)
    return free_hw if np.count_nonzero(free_hw) >= 2 * ENOUGH else ring_hw


def _passed() -> float:
    """Share of white noise's standard deviation that the high pass lets through."""
    side = 8 * int(np.ceil(HIGH_PASS_SIGMA)) + 1
    delta_hw3 = np.zeros((side, side, 3), np.float32)
    delta_hw3[side // 2, side // 2] = 1
    return float(np.sqrt((high_pass(delta_hw3)[..., 0] ** 2).sum()))


PASSED = _passed()
