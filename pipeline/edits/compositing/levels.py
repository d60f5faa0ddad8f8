"""Bring a filled hole to the level of its rim: a patch slightly paler than the rest is seen as one.

An inpainter copies texture from farther away, where the light is another one, and a hole ends where
the last of a shadow is hardly measured. The step of colour along the rim, where it is small and so
no structure, is continued into the hole as a smooth surface and added.

Shapes: h, w window; 3 colour (RGB, float32, 0-255).
"""

import cv2
import numpy as np

from pipeline.edits.compositing.matting import mean_near
from pipeline.imaging.masks import dilated

# Pixels on both sides of the rim whose means are compared, and grey levels beyond which a step is
# structure that the fill does not continue.
BAND, STRUCTURE = 4, 12.0
# Gaussian sigmas in pixels, from fine to coarse, with which the step is continued into the hole.
SIGMAS = (2.0, 6.0, 18.0, 54.0)
# Pixels of a window from which wide blurs are taken at a lower resolution, and the least sigma
# there.
LARGE, LEAST_SIGMA = 200 * 200, 6.0


def levelled(
    filled_hw3: np.ndarray, source_hw3: np.ndarray, hole_hw: np.ndarray, objects_hw: np.ndarray
) -> np.ndarray:
    """The filled window without a step along the rim of its hole, float32.

    `objects_hw` are parts outside the hole, whose colours say nothing about the background.
    """
    outer_hw = dilated(hole_hw, BAND) & ~hole_hw & ~dilated(objects_hw & ~hole_hw, 2)
    inner_hw = hole_hw & dilated(~hole_hw, BAND)
    if not outer_hw.any() or not inner_hw.any():
        return filled_hw3
    outside_hw3, outside_hw1 = mean_near(source_hw3, outer_hw, BAND / 2)
    inside_hw3, inside_hw1 = mean_near(filled_hw3, inner_hw, BAND / 2)
    step_hw3 = outside_hw3 - inside_hw3
    # Along the rim only, where both sides are seen.
    rim_hw = np.minimum(outside_hw1, inside_hw1)[..., 0] > 0.2
    structure_hw = rim_hw & (np.abs(step_hw3).max(2) > STRUCTURE)
    sure_hw = rim_hw & ~dilated(structure_hw, BAND)
    if not sure_hw.any():
        return filled_hw3
    surface_hw3, _ = _continued(step_hw3, sure_hw, SIGMAS[-1])
    for sigma in reversed(SIGMAS[:-1]):
        finer_hw3, weight_hw1 = _continued(step_hw3, sure_hw, sigma)
        share_hw1 = np.clip(weight_hw1 / 0.1, 0, 1)
        surface_hw3 = share_hw1 * finer_hw3 + (1 - share_hw1) * surface_hw3
    # Structure ends at the rim and takes the step along for a few pixels: none is added there.
    known_hw1 = cv2.GaussianBlur((sure_hw | ~inner_hw).astype(np.float32), (0, 0), BAND)[..., None]
    added_hw3 = np.clip(known_hw1, 0, 1) * surface_hw3
    return np.where(hole_hw[..., None], filled_hw3 + added_hw3, filled_hw3).astype(np.float32)


def _continued(
    step_hw3: np.ndarray, sure_hw: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """`mean_near`; in a large window, wide blurs are taken at a lower resolution."""
    height, width = sure_hw.shape
    reduced = int(sigma / LEAST_SIGMA)
    if reduced < 2 or height * width < LARGE:
        return mean_near(step_hw3, sure_hw, sigma)
    small = -(-width // reduced), -(-height // reduced)
    weight_hw1 = sure_hw.astype(np.float32)[..., None]
    layers_hw4 = np.concatenate([step_hw3 * weight_hw1, weight_hw1], 2)
    # By area and linearly, so that the weights keep their sum.
    few = cv2.resize(layers_hw4, small, interpolation=cv2.INTER_AREA)
    few = cv2.GaussianBlur(few, (0, 0), sigma / reduced)
    blur_hw4 = cv2.resize(few, (width, height), interpolation=cv2.INTER_LINEAR)
    total_hw1 = blur_hw4[..., 3:]
    return blur_hw4[..., :3] / np.maximum(total_hw1, 1e-6), total_hw1
