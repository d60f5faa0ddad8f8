"""Continue straight lines through a hole: the wall of a compartment, the edge of a label.

A search for patches breaks a line or copies another piece of it into the middle of the hole, and a
network smears it. What a row of a line shows on both sides of the hole is shown in the hole, with
the grain of the line. The rest of the hole is left to others.

Shapes: h, w window around the hole; 3 colour (RGB, uint8).
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.imaging.masks import dilated
from pipeline.imaging.region_values import copy_region
from pipeline.imaging.straight import lines_beside
from pipeline.models.inpaint.plain import copied_grain

# Smoothing in pixels at 256 before colours are compared.
FINE = 0.7
# Pixels at 256 beside a wall where the floor is darker or brighter because of it, and rows over
# which the widest place of a hole counts: few, as shadows are in the hole and nothing but lines is
# beside it.
FOOT, BROADER = 3.0, 2.0
# Pixels around a hole that may show the rim of what it hid.
RIM = 1
# CIELAB distance up to which a pixel beside the hole shows the line: its grain is copied.
SHOWS = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Continued:
    """The window with its lines continued, what of the hole is left (bool), and the places beside
    the hole that lines and what lies beyond them show (bool)."""

    image_hw3: np.ndarray
    left_hw: np.ndarray
    lines_hw: np.ndarray


def continued(
    image_hw3: np.ndarray, hole_hw: np.ndarray, avoid_hw: np.ndarray, px: float
) -> Continued:
    """The window with the lines that run on at both sides of the hole; `px` is what a pixel at 256
    is here, and pixels of `avoid_hw` are neither looked at nor copied."""
    lab_hw3 = cv2.cvtColor(image_hw3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    lab_hw3 = cv2.GaussianBlur(lab_hw3, (0, 0), FINE * px)
    result_hw3, left_hw = image_hw3.copy(), hole_hw.copy()
    lines_hw, known_hw = np.zeros_like(hole_hw), ~(hole_hw | avoid_hw)
    for lines in lines_beside(lab_hw3, dilated(hole_hw, RIM), known_hw, px, FOOT, BROADER):
        taken_hw = left_hw & lines.beyond_hw
        lines_hw |= lines.beyond_hw
        if not taken_hw.any():
            continue
        shown_hw3 = 255 * cv2.cvtColor(lines.expected_hw3, cv2.COLOR_LAB2RGB)
        off_hw = np.linalg.norm(lab_hw3 - lines.expected_hw3, axis=2)
        free_hw = known_hw & lines.beyond_hw & (off_hw <= max(SHOWS, 2 * lines.noise))
        grain_hw3 = copied_grain(image_hw3 - shown_hw3, taken_hw, free_hw)
        filled_hw3 = np.clip(np.rint(shown_hw3 + grain_hw3), 0, 255).astype(np.uint8)
        copy_region(filled_hw3, taken_hw, result_hw3)
        left_hw &= ~taken_hw
    return Continued(result_hw3, left_hw, lines_hw & ~hole_hw)
