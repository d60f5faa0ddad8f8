"""What stays beside a part that is removed: broad things, and straight lines that run on.

No proposal shows them: what a leg is mounted on, the wall of a compartment, a printed line. The
hole of the part must not cut into them, and the light ends where they begin.

Shapes: h, w window; 3 colour (CIELAB, float32).
"""

import cv2
import numpy as np

from pipeline.edits.things import NEXT, OFF, UNLIKE
from pipeline.imaging.masks import dilated, opened
from pipeline.imaging.region_values import labels_in
from pipeline.imaging.straight import lines_beside

# CIELAB distance from the background of a broad thing, and half of its least width in pixels at
# 256.
MUCH_CONTRAST, BROAD = 15.0, 4
# Pixels at 256 around a part that may be its own soft rim, where lines are not looked at.
RIM = 4
# CIELAB distance from a line up to which a pixel shows it and no shadow on it, at least so much and
# so often the noise of the line, smoothed over pixels at 256.
SHOWS, NOISES, SMOOTH = 2.5, 1.0, 1.5


def broad_things(
    found: tuple[np.ndarray, np.ndarray],
    distance_hw: np.ndarray,
    free_hw: np.ndarray,
    reach: float,
    px: float,
) -> np.ndarray:
    """Broad things that touch the mask and reach farther than its pieces may, (h, w) bool.

    `found` is the `deviation` from the background, `distance_hw` the distance from the mask in
    pixels, `px` what a pixel at 256 is here.
    """
    residual_hw3, spreads_hw = found
    things_hw = np.zeros_like(free_hw)
    unlike_hw = (spreads_hw > UNLIKE) & free_hw & (distance_hw <= reach + 1)
    # Without what is narrow: the end of a leg goes with the leg.
    broad_hw = opened(unlike_hw, round(BROAD * px))
    if not broad_hw.any():
        return things_hw
    _, labels_hw = cv2.connectedComponents(broad_hw.astype(np.uint8))
    near = labels_in(labels_hw, distance_hw <= 2 * OFF * px + NEXT)
    for number in np.intersect1d(near, labels_in(labels_hw, distance_hw > reach)).tolist():
        thing_hw = labels_hw == number
        if number and np.linalg.norm(residual_hw3[thing_hw], axis=1).mean() >= MUCH_CONTRAST:
            things_hw |= thing_hw
    return things_hw


def on_lines(
    lab_hw3: np.ndarray, mask_hw: np.ndarray, known_hw: np.ndarray, px: float
) -> tuple[np.ndarray, np.ndarray]:
    """Where the window shows what straight lines, and what lies beyond them, show on both sides of
    the mask: no part's light falls there. And all that lies beyond them; two of (h, w) bool.

    `known_hw` is where no other part lies, and `px` what a pixel at 256 is here.
    """
    stays_hw, past_hw = np.zeros_like(mask_hw), np.zeros_like(mask_hw)
    hidden_hw = dilated(mask_hw, round(RIM * px))
    for lines in lines_beside(lab_hw3, hidden_hw, known_hw, px):
        off_hw3 = cv2.GaussianBlur(lab_hw3 - lines.expected_hw3, (0, 0), SMOOTH * px)
        shown_hw = np.linalg.norm(off_hw3, axis=2) <= max(SHOWS, NOISES * lines.noise)
        stays_hw |= shown_hw & lines.beyond_hw
        past_hw |= lines.past_hw
    return stays_hw & ~mask_hw, past_hw
