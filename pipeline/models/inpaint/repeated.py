"""Repeats a background that repeats itself: a hole is filled with what the pattern shows there.

A candidate beside networks and PatchMatch where the image's background is known
(`imaging.repetition`): holes stay round and stripes straight. No two holes of a board are equally
dark, so what differs along the rim is continued into the hole, in the dark and in the bright part
of the pattern each for itself.

Shapes: H, W image; h, w window around the hole; 3 colour (RGB, uint8).
"""

import cv2
import numpy as np

from pipeline.imaging.masks import dilated, window
from pipeline.imaging.region_values import copy_region
from pipeline.imaging.repetition import RepeatedBackground
from pipeline.settings import pixels_at

# Its name among candidates, in the records of fills.
REPEATED = "repeated"
# Share of a hole that must be known, and of its rim that must lie beside the product.
KNOWN, BESIDE = 0.98, 0.5
# Width in pixels of the rim.
RIM = 2
# How far differences are continued into the hole, in pixels at 256, and the largest that are.
REACH, MOST = 5.0, 40.0
# Weight of the rim, as a share of what a straight one has, below which differences fade.
FAINT = 0.15
# Width in grey levels between the dark and the bright part of the pattern.
BETWEEN = 12.0


class RepeatedInpainter:
    """The fill of one image: `background` is predicted beside the product (`product_HW`, bool)."""

    def __init__(self, background: RepeatedBackground, product_HW: np.ndarray) -> None:
        self._background, self._product_HW = background, product_HW
        grey_HW = cv2.cvtColor(np.rint(background.image_HW3).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        middle, _ = cv2.threshold(grey_HW, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
        # How bright a pixel of the pattern is, 0-1.
        self._bright_HW = np.clip((grey_HW - middle) / BETWEEN + 0.5, 0, 1).astype(np.float32)

    def knows(self, hole_HW: np.ndarray) -> bool:
        """True when the prediction tells what a hole (bool, not empty) shows."""
        rim_HW = dilated(hole_HW, RIM) & ~hole_HW
        if rim_HW.any() and 1 - self._product_HW[rim_HW].mean() < BESIDE:
            return False
        return bool(self._background.known_HW[hole_HW].mean() >= KNOWN)

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        filled_HW3 = image_HW3.copy()
        if not hole_HW.any():
            return filled_HW3
        reach = pixels_at(REACH, (hole_HW.shape[0], hole_HW.shape[1]))
        near = window(hole_HW, round(3 * reach))
        hole_hw = hole_HW[near]
        predicted_hw3, bright_hw = self._background.image_HW3[near], self._bright_HW[near]
        off_hw3 = np.clip(image_HW3[near] - predicted_hw3, -MOST, MOST)
        rim_hw = dilated(hole_hw, RIM) & ~hole_hw & ~dilated(self._product_HW[near] & ~hole_hw, 1)
        rim_hw = rim_hw.astype(np.float32)
        added_hw3 = np.zeros_like(off_hw3)
        for part_hw in (bright_hw, 1 - bright_hw):
            weight_hw1 = cv2.GaussianBlur(rim_hw * part_hw, (0, 0), reach)[..., None]
            sums_hw3 = cv2.GaussianBlur(off_hw3 * (rim_hw * part_hw)[..., None], (0, 0), reach)
            added_hw3 += part_hw[..., None] * sums_hw3 / np.maximum(weight_hw1, FAINT * RIM / reach)
        result_hw3 = np.clip(np.rint(predicted_hw3 + added_hw3), 0, 255).astype(np.uint8)
        copy_region(result_hw3, hole_hw, filled_HW3[near])
        return filled_HW3
