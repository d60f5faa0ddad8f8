"""Which pixels along an outline belong to the part: proposals miss it by a pixel or two."""

import cv2
import numpy as np

NEAR_SIGMA = 3.0
"""Radius in pixels of the neighbourhood that tells the colours of part and ground."""
TELLING = 24.0
"""RGB distance of part and ground from which colour tells more than the outline does."""


def belonging(
    source_hw3: np.ndarray, mask_hw: np.ndarray, band: int, feather: int = 3
) -> np.ndarray:
    """How much of each pixel is the part, (h, w) float32: by outline, near the outline by colour.

    Within `band` pixels of the outline a pixel's colour is placed between the mean colours of the
    part and of the ground nearby; where those are alike the outline decides, `feather` px soft.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    inner_hw = cv2.erode(mask_hw.astype(np.uint8), disc).astype(np.bool_)
    outer_hw = cv2.dilate(mask_hw.astype(np.uint8), disc).astype(np.bool_)
    soft_hw = cv2.GaussianBlur(mask_hw.astype(np.float32), (0, 0), max(feather, 1) / 3)
    if not inner_hw.any() or outer_hw.all():
        return soft_hw
    part_hw3, part_hw1 = mean_near(source_hw3, inner_hw, NEAR_SIGMA)
    ground_hw3, ground_hw1 = mean_near(source_hw3, ~outer_hw, NEAR_SIGMA)
    axis_hw3 = part_hw3 - ground_hw3
    length_hw = np.sqrt(_summed(axis_hw3**2))
    place_hw = _summed((source_hw3 - ground_hw3) * axis_hw3) / np.maximum(length_hw**2, 1)
    seen_hw = np.minimum(part_hw1, ground_hw1)[..., 0] > 1e-3  # a thin part has no inside nearby
    trust_hw = np.clip(length_hw / TELLING - 0.5, 0, 1) * seen_hw
    alpha_hw = trust_hw * np.clip(place_hw, 0, 1) + (1 - trust_hw) * soft_hw
    alpha_hw = np.where(inner_hw, 1, np.where(outer_hw, alpha_hw, 0))
    return alpha_hw.astype(np.float32)


def _summed(layers_hw3: np.ndarray) -> np.ndarray:
    """The sum of three channels; NumPy's own sum over so short an axis takes ten times as long."""
    total_hw: np.ndarray = layers_hw3[..., 0] + layers_hw3[..., 1] + layers_hw3[..., 2]
    return total_hw


def mean_near(
    source_hw3: np.ndarray, where_hw: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """The mean colour of a region around every pixel, and how much of the region is near it."""
    weight_hw = where_hw.astype(np.float32)
    total_hw1 = cv2.GaussianBlur(weight_hw, (0, 0), sigma)[..., None]
    blur_hw3 = cv2.GaussianBlur(source_hw3 * weight_hw[..., None], (0, 0), sigma)
    return blur_hw3 / np.maximum(total_hw1, 1e-6), total_hw1
