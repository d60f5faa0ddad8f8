"""Fill a hole in a smooth surface: the shades along its rim run into each other inside.

Moulded plastic, a drawn floor, paper in uneven light: there is no texture to copy, and pieces of it
from elsewhere bring another shade along, which is seen as a mottled patch. Only the grain is
copied.

Shapes: h, w window around the hole; 3 colour (RGB).
"""

import cv2
import numpy as np

from pipeline.imaging.masks import dilated
from pipeline.imaging.near_region import mean_near
from pipeline.imaging.region_values import copy_region
from pipeline.models.inpaint.plain import copied_grain

# Pixels at 256 of the rim that is looked at, and sigma by which its colours are smoothed.
RIM, SMOOTH = 5.0, 0.7
# Grey levels by which half of the rim's pixels may differ from the mean of 3 x 3. Measured: drawn
# trays 0.7 to 1.1, blocks of wood from 1.2, cloth and meshes from 4.
ROUGH = 1.2
# Grey levels by which shades of one surface differ around a hole, and the share of the hole's
# outline beside which that surface must be seen.
SHADES, SEEN = 24.0, 0.5
# Steps of smoothing at each resolution.
STEPS = 8


def smooth_fill(
    image_hw3: np.ndarray,
    hole_hw: np.ndarray,
    avoid_hw: np.ndarray,
    lines_hw: np.ndarray,
    px: float,
) -> np.ndarray | None:
    """The window (h, w, 3) uint8 with its hole filled; None where its surroundings are not smooth.

    Pixels of `avoid_hw` are neither looked at nor copied, and `lines_hw` need not be smooth. `px`
    is what a pixel at 256 is here.
    """
    free_hw = ~(hole_hw | avoid_hw)
    float_hw3 = image_hw3.astype(np.float32)
    # Slopes are no roughness, so only pixels with all their neighbours count.
    whole_hw = cv2.erode(free_hw.view(np.uint8), np.ones((3, 3)), borderValue=0).view(np.bool_)
    rim_hw = dilated(hole_hw, round(RIM * px)) & whole_hw & ~lines_hw
    if not rim_hw.any():
        return None
    rough_hw = np.abs(float_hw3 - cv2.blur(float_hw3, (3, 3))).max(2)
    if float(np.median(rough_hw[rim_hw])) > ROUGH:
        return None
    # What stands beside the surface, as a wall does, lends it no shade.
    shade_hw3 = mean_near(float_hw3, free_hw, SMOOTH * px)[0]
    usual_3 = np.median(float_hw3[rim_hw], axis=0)
    shades_hw = free_hw & (np.abs(shade_hw3 - usual_3).max(2) <= SHADES)
    outline_hw = dilated(hole_hw, 1) & ~(hole_hw | lines_hw)
    if np.count_nonzero(outline_hw & shades_hw) < SEEN * np.count_nonzero(outline_hw):
        return None
    grain_hw3 = float_hw3 - shade_hw3
    calm_hw = rim_hw & (np.abs(grain_hw3).max(2) <= 2 * ROUGH)
    filled_hw3 = _between(shade_hw3, shades_hw) + copied_grain(grain_hw3, hole_hw, calm_hw)
    result_hw3 = image_hw3.copy()
    copy_region(np.clip(np.rint(filled_hw3), 0, 255).astype(np.uint8), hole_hw, result_hw3)
    return result_hw3


def _between(colour_hw3: np.ndarray, known_hw: np.ndarray) -> np.ndarray:
    """Known colours as they are, and a membrane through their edges elsewhere, float32.

    From coarse to fine: at half the resolution most of the way is known already.
    """
    height, width = known_hw.shape
    weight_hw1 = known_hw.astype(np.float32)[..., None]
    if min(height, width) < 4 or known_hw.all():
        mean_3 = (colour_hw3 * weight_hw1).sum((0, 1)) / max(1, np.count_nonzero(known_hw))
        return np.where(known_hw[..., None], colour_hw3, mean_3).astype(np.float32)
    half = -(-width // 2), -(-height // 2)
    layers_hw4 = np.concatenate([colour_hw3 * weight_hw1, weight_hw1], 2)
    few_hw4 = cv2.resize(layers_hw4, half, interpolation=cv2.INTER_AREA)
    few_hw1 = few_hw4[..., 3:]
    coarse_hw3 = _between(few_hw4[..., :3] / np.maximum(few_hw1, 1e-6), few_hw1[..., 0] > 1e-3)
    guess_hw3 = cv2.resize(coarse_hw3, (width, height), interpolation=cv2.INTER_LINEAR)
    known_hw3 = np.broadcast_to(known_hw[..., None], guess_hw3.shape)
    np.copyto(guess_hw3, colour_hw3, where=known_hw3)
    for _ in range(STEPS):
        guess_hw3 = cv2.blur(guess_hw3, (3, 3))
        np.copyto(guess_hw3, colour_hw3, where=known_hw3)
    found_hw3: np.ndarray = guess_hw3
    return found_hw3
