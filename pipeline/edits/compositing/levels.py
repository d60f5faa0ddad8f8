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
from pipeline.imaging.region_values import copy_region

# Pixels on both sides of the rim whose means are compared, and grey levels beyond which a step is
# structure that the fill does not continue.
BAND, STRUCTURE = 4, 12.0
# Gaussian sigmas in pixels, from fine to coarse, with which the step is continued into the hole.
SIGMAS = (2.0, 6.0, 18.0, 54.0)
# Pixels around a hole on which its level depends: both bands, and their blurs.
SEEN = 24


def levelled(
    filled_hw3: np.ndarray, source_hw3: np.ndarray, hole_hw: np.ndarray, objects_hw: np.ndarray
) -> np.ndarray:
    """The filled window without a step along the rim of its hole, float32.

    `objects_hw` are parts outside the hole, whose colours say nothing about the background.
    """
    found = _steps(filled_hw3, source_hw3, hole_hw, objects_hw)
    if found is None:
        return filled_hw3
    sure_hw, step_hw3, known_hw1 = found
    # From where something is sure into the hole alone: all else is 0, or nothing is added there.
    hole, sure = window(hole_hw, 0), window(sure_hw, 0)
    layers_4hw = np.stack([*np.moveaxis(step_hw3[sure], 2, 0), sure_hw[sure]])
    surface_3hw: np.ndarray = np.zeros((3, 1, 1), np.float32)
    for sigma in reversed(SIGMAS):
        *sums_3hw, weight_hw = _spread(layers_4hw, sigma, sure, hole)
        # Of the widest all: nothing coarser tells more.
        share_hw = np.clip(weight_hw / 0.1, 0, 1) if sigma < SIGMAS[-1] else 1
        finer_3hw = np.stack(sums_3hw) / np.maximum(weight_hw, 1e-6)
        surface_3hw = share_hw * finer_3hw + (1 - share_hw) * surface_3hw
    added_hw3 = known_hw1[hole] * np.moveaxis(surface_3hw, 0, 2)
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


def _spread(
    layers_Chw: np.ndarray, sigma: float, here: tuple[slice, slice], there: tuple[slice, slice]
) -> np.ndarray:
    """The Gaussian blur of layers that lie `here` (rows, columns) and are 0 elsewhere, as it is
    `there`: two products of matrices, whatever the sigma is; (C, rows, columns) float32."""
    down_ab, across_cd = (
        _weights(np.arange(to.start, to.stop)[:, None] - np.arange(of.start, of.stop), sigma)
        for of, to in zip(here, there, strict=True)
    )
    spread_Chw: np.ndarray = down_ab @ layers_Chw @ across_cd.T
    return spread_Chw


def _weights(offsets: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian of norm 1 at some offsets in pixels, float32; 0 where it is negligible."""
    weights = np.exp(-0.5 * np.square(offsets / np.float32(sigma))) / (np.sqrt(2 * np.pi) * sigma)
    return np.where(np.abs(offsets) <= 4 * sigma, weights, 0).astype(np.float32)
