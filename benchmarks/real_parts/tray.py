"""A tray with compartments: where they are, which kinds belong into them, how it looks.

Shapes: H, W image; K compartments; 3 colour (RGB, float32 0-255); 4 box as x0 y0 x1 y1.
"""

from collections import Counter

import cv2
import numpy as np

# Rows and columns of compartments, the kinds in each of them in reading order.
ROWS, COLUMNS = 2, 3
TRAY_CELLS = {
    0: ("bottle",), 1: ("hazelnut", "hazelnut"), 2: ("transistor",),
    3: ("transistor",), 4: ("bottle", "bottle"), 5: ("hazelnut",),
}  # fmt: skip
TRAY_RULE = dict(Counter(kind for kinds in TRAY_CELLS.values() for kind in kinds))
# Rim of the tray and thickness of its walls, as shares of the image; widths of the columns.
RIM, WALL = 0.03, 0.022
WIDTHS = (0.27, 0.46, 0.27)
# Brightness of the walls' lit and shaded sides and of their top, relative to the ground.
LIT, SHADED, TOP = 1.25, 0.7, 1.12


def cells_K4(size: int) -> np.ndarray:
    """The compartments' inner boxes on an image of `size` pixels, (K, 4) int64."""
    inner = size * (1 - 2 * RIM)
    lefts = size * RIM + np.concatenate([[0], np.cumsum(WIDTHS)]) * inner
    tops = size * RIM + np.linspace(0, inner, ROWS + 1)
    half = size * WALL / 2
    return np.array([
        (lefts[c] + half, tops[r] + half, lefts[c + 1] - half, tops[r + 1] - half)
        for r in range(ROWS) for c in range(COLUMNS)
    ]).round().astype(np.int64)  # fmt: skip


def draw_tray(ground_HW3: np.ndarray, boxes_K4: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ground's material formed into a tray whose walls are lit from the upper left."""
    size = ground_HW3.shape[0]
    factor_HW = np.ones((size, size), np.float32)
    x0, y0 = boxes_K4[:, :2].min(0) - round(size * WALL)
    x1, y1 = boxes_K4[:, 2:].max(0) + round(size * WALL)
    factor_HW[y0:y1, x0:x1] = TOP
    # The floor lies in the shade of its walls.
    floor = rng.uniform(0.82, 0.95)
    slope = max(2, round(size * WALL / 3))
    for left, top, right, bottom in boxes_K4.tolist():
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        inner = corners + slope * np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)])
        # Walls seen from above: upper and left ones look away from the light.
        for side, shade in enumerate((SHADED, LIT, LIT, SHADED)):
            after = (side + 1) % 4
            wall = np.array([corners[side], corners[after], inner[after], inner[side]], np.int32)
            cv2.fillPoly(factor_HW, [wall], shade)
        cv2.fillPoly(factor_HW, [inner.astype(np.int32)], floor)
    return ground_HW3 * cv2.GaussianBlur(factor_HW, (0, 0), size * 0.002)[..., None]
