"""Point and box prompts as a user would place them."""

import cv2
import numpy as np

from pipeline.models.small_sam.build import IMAGE_SIZE

# The 3 x 3 neighbourhood that makes a pixel an inner one.
CROSS = np.ones((3, 3), np.uint8)


def point_in(
    ids_HW: np.ndarray, part: int, box: np.ndarray, rng: np.random.Generator
) -> tuple[float, float]:
    """Centre (x, y) of a random pixel of the part, off its outline where it is wide enough."""
    x0, y0, x1, y1 = box.astype(int)
    mask_hw = (ids_HW[y0:y1, x0:x1] == part).astype(np.uint8)
    # Pad with zeros, so that the part's pixels at the border of the crop count as outline too.
    inner_hw = cv2.erode(cv2.copyMakeBorder(mask_hw, 1, 1, 1, 1, cv2.BORDER_CONSTANT), CROSS)
    where = np.flatnonzero(inner_hw[1:-1, 1:-1] if inner_hw.any() else mask_hw)
    y, x = divmod(int(where[rng.integers(len(where))]), mask_hw.shape[1])
    return x0 + x + 0.5, y0 + y + 0.5


def jittered(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The box with noise of up to a twentieth of its size, like boxes of people and detectors."""
    sides = np.tile(box[2:] - box[:2], 2)
    return np.clip(box + rng.normal(0, rng.uniform(0, 0.05), 4) * sides, 0, IMAGE_SIZE)
