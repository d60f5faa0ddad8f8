"""Bring a filled hole to the level of its rim: a patch slightly paler than the rest is seen as one.

An inpainter copies texture from farther away, where the light is another one, and a hole ends where
the last of a shadow is hardly measured. The step of colour along the rim, where it is small and so
no structure, is continued into the hole as a smooth surface and added.

Shapes: h, w window; 3 colour (RGB, float32, 0-255).
"""

import cv2
import numpy as np

from pipeline.imaging.masks import dilated, window
from pipeline.imaging.near_region import mean_near
from pipeline.imaging.partial_blur import aligned, blurred_part
from pipeline.imaging.region_values import copy_region

# Pixels on both sides of the rim whose means are compared, and grey levels beyond which a step is
# structure that the fill does not continue.
BAND, STRUCTURE = 4, 12.0
# Gaussian sigmas in pixels, from fine to coarse, with which the step is continued into the hole.
SIGMAS = (2.0, 6.0, 18.0, 54.0)
# Pixels around a hole on which the step along its rim depends: both bands, and their blurs.
SEEN = 24
# Pixels of a window from which wide blurs are taken at a lower resolution, and the least sigma
# there.
LARGE, LEAST_SIGMA = 200 * 200, 6.0


def levelled(
    filled_hw3: np.ndarray, source_hw3: np.ndarray, hole_hw: np.ndarray, objects_hw: np.ndarray
) -> np.ndarray:
    """The filled window without a step along the rim of its hole, float32.

    `objects_hw` are parts outside the hole, whose colours say nothing about the background.
    """
    near = aligned(window(hole_hw, SEEN), hole_hw.shape)
    found = _steps(filled_hw3[near], source_hw3[near], hole_hw[near], objects_hw[near])
    if found is None:
        return filled_hw3
    sure_hw, step_hw3, known_hw1 = np.zeros_like(hole_hw), np.zeros_like(filled_hw3), None
    sure_hw[near], step_hw3[near], known_hw1 = found
    # Wide blurs depend on the whole window, and only in the hole anything is added.
    hole = window(hole_hw, 0)
    surface_hw3, _ = _continued(step_hw3, sure_hw, SIGMAS[-1], hole)
    for sigma in reversed(SIGMAS[:-1]):
        finer_hw3, weight_hw1 = _continued(step_hw3, sure_hw, sigma, hole)
        share_hw1 = np.clip(weight_hw1 / 0.1, 0, 1)
        surface_hw3 = share_hw1 * finer_hw3 + (1 - share_hw1) * surface_hw3
    top, left = (one.start - other.start for one, other in zip(hole, near, strict=True))
    height, width = surface_hw3.shape[:2]
    added_hw3 = known_hw1[top : top + height, left : left + width] * surface_hw3
    levelled_hw3 = filled_hw3.copy()
    copy_region(filled_hw3[hole] + added_hw3, hole_hw[hole], levelled_hw3[hole])
    return levelled_hw3


def _steps(
    filled_hw3: np.ndarray, source_hw3: np.ndarray, hole_hw: np.ndarray, objects_hw: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Where the step along the rim is surely one of light, (h, w) bool, the step there and 0
    elsewhere, (h, w, 3), and how much of it counts, (h, w, 1) in [0, 1]; None where there is none.
    """
    outer_hw = dilated(hole_hw, BAND) & ~hole_hw & ~dilated(objects_hw & ~hole_hw, 2)
    inner_hw = hole_hw & dilated(~hole_hw, BAND)
    if not outer_hw.any() or not inner_hw.any():
        return None
    outside_hw3, outside_hw1 = mean_near(source_hw3, outer_hw, BAND / 2)
    inside_hw3, inside_hw1 = mean_near(filled_hw3, inner_hw, BAND / 2)
    step_hw3 = outside_hw3 - inside_hw3
    # Along the rim only, where both sides are seen.
    rim_hw = np.minimum(outside_hw1, inside_hw1)[..., 0] > 0.2
    structure_hw = rim_hw & (np.abs(step_hw3).max(2) > STRUCTURE)
    sure_hw = rim_hw & ~dilated(structure_hw, BAND)
    if not sure_hw.any():
        return None
    # Structure ends at the rim and takes the step along for a few pixels: none is added there.
    known_hw1 = cv2.GaussianBlur((sure_hw | ~inner_hw).astype(np.float32), (0, 0), BAND)[..., None]
    return sure_hw, step_hw3 * sure_hw[..., None], np.clip(known_hw1, 0, 1)


def _continued(
    step_hw3: np.ndarray, sure_hw: np.ndarray, sigma: float, part: tuple[slice, slice]
) -> tuple[np.ndarray, np.ndarray]:
    """`mean_near` in a part of the window, of steps that are 0 elsewhere than in `sure_hw`; in a
    large window, wide blurs are taken at a lower resolution."""
    height, width = sure_hw.shape
    reduced = int(sigma / LEAST_SIGMA)
    weight_hw = sure_hw.astype(np.float32)
    if reduced < 2 or height * width < LARGE:
        rows = window(sure_hw, 0)[0]
        total_hw1 = blurred_part(weight_hw, sigma, part, rows)[..., None]
        return blurred_part(step_hw3, sigma, part, rows) / np.maximum(total_hw1, 1e-6), total_hw1
    small = -(-width // reduced), -(-height // reduced)
    layers_hw4 = np.concatenate([step_hw3, weight_hw[..., None]], 2)
    # By area and linearly, so that the weights keep their sum.
    few = cv2.resize(layers_hw4, small, interpolation=cv2.INTER_AREA)
    few = cv2.GaussianBlur(few, (0, 0), sigma / reduced)
    blur_hw4 = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)[part]
    total_hw1 = blur_hw4[..., 3:]
    return blur_hw4[..., :3] / np.maximum(total_hw1, 1e-6), total_hw1
