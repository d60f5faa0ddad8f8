"""Fill a hole in a plain surface, without a search: its smooth colour and the grain around.

A backdrop, a sheet, an evenly lit table: whatever patches are copied there, the fill is the
surface. So its colour is computed, as a polynomial of the place, and only what the surroundings
show beyond that (sensor noise, the weave of a cloth) is copied.

Shapes: h, w window around the hole; c, d its cells; 3 colour (RGB); T terms of the polynomial.
"""

import cv2
import numpy as np

from pipeline.imaging.region_values import copy_region
from pipeline.records import bounding_box

# Cells along the longer side of a window; what is smaller than a cell counts as grain.
CELLS = 64
# Grey levels by which 99 % of the cells may differ from the smooth colour. Measured: the backdrops
# of bottles and hazelnuts at most 4.5, all other surroundings of holes at least 30.
PLAIN = 5.0
# Cells that tell what the surface is: at least so many, and that share of the hole's.
LEAST, SHARE = 64, 0.25
# Places along the longer side of a window whose grain may be copied.
STEPS = 16
# Percentile of the grain up to which it is copied.
USUAL = 97


def plain_fill(
    image_hw3: np.ndarray, hole_hw: np.ndarray, avoid_hw: np.ndarray
) -> np.ndarray | None:
    """The window (h, w, 3) uint8 with its hole filled; None where its surroundings are not plain.

    Pixels of `avoid_hw` are neither looked at nor copied.
    """
    free_hw = ~(hole_hw | avoid_hw)
    surface_hw3 = plain_surface(image_hw3, hole_hw, free_hw)
    if surface_hw3 is None:
        return None
    grain_hw3 = image_hw3 - surface_hw3
    # Copied several times, a fleck of dust would be a pattern.
    most = np.percentile(np.abs(grain_hw3[free_hw]), USUAL)
    filled_hw3 = surface_hw3 + copied_grain(grain_hw3.clip(-most, most), hole_hw, free_hw)
    result_hw3 = image_hw3.copy()
    result_hw3[hole_hw] = np.clip(np.rint(filled_hw3[hole_hw]), 0, 255)
    return result_hw3


def plain_surface(
    image_hw3: np.ndarray, hole_hw: np.ndarray, free_hw: np.ndarray
) -> np.ndarray | None:
    """The smooth colour (h, w, 3) float32 of a window; None where `free_hw` is not plain."""
    height, width = hole_hw.shape
    side = -(-max(height, width) // CELLS)
    rows, columns = height // side, width // side
    whole = np.s_[: rows * side, : columns * side]

    def cells(window_hw: np.ndarray) -> np.ndarray:
        """The means of whole cells."""
        inner_hw = np.ascontiguousarray(window_hw[whole], np.float32)
        return cv2.resize(inner_hw, (columns, rows), interpolation=cv2.INTER_AREA)

    # A cell counts where all of its pixels are free.
    free_cd = cells(free_hw) > 1 - 0.5 / side**2
    if np.count_nonzero(free_cd) < max(LEAST, SHARE * np.count_nonzero(hole_hw) / side**2):
        return None
    colours_cd3 = cells(image_hw3)
    smooth_T3 = _fitted(colours_cd3, free_cd)
    colours, smooth = colours_cd3[free_cd], _surface(smooth_T3, rows, columns)[free_cd]
    if np.percentile(np.abs(colours - smooth).max(1), 99) > PLAIN:
        return None
    surface_hw3 = _surface(smooth_T3, height, width)
    inside = surface_hw3[hole_hw]
    # A hole at the edge of what is known: the polynomial leads away from every colour.
    if (inside < colours.min(0) - PLAIN).any() or (inside > colours.max(0) + PLAIN).any():
        return None
    return surface_hw3


def _fitted(colours_cd3: np.ndarray, known_cd: np.ndarray) -> np.ndarray:
    """The coefficients (T, 3) of the polynomial of second degree that is nearest to the colours."""
    rows, columns = known_cd.shape
    row_N, column_N = np.nonzero(known_cd)
    y_N, x_N = _places(rows)[row_N], _places(columns)[column_N]
    terms_NT = np.stack([np.ones_like(y_N), y_N, x_N, y_N**2, y_N * x_N, x_N**2], 1)
    return np.linalg.lstsq(terms_NT, colours_cd3[known_cd].astype(np.float64), rcond=None)[0]


def _surface(smooth_T3: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """That polynomial over a window of any resolution, (rows, columns, 3) float32."""
    y, x = _places(rows)[:, None, None], _places(columns)[None, :, None]
    one, by_y, by_x, by_yy, by_xy, by_xx = smooth_T3
    down, across = one + by_y * y + by_yy * y**2, by_x * x + by_xx * x**2
    surface_hw3: np.ndarray = (down + across + by_xy * (y * x)).astype(np.float32)
    return surface_hw3


def _places(count: int) -> np.ndarray:
    """The centres of so many equal cells, from -1 to 1."""
    return (2 * np.arange(count) + 1) / count - 1


def copied_grain(grain_hw3: np.ndarray, hole_hw: np.ndarray, free_hw: np.ndarray) -> np.ndarray:
    """The grain, where the hole is that of the nearest free places."""
    height, width = hole_hw.shape
    step = max(1, max(height, width) // STEPS)
    shifts = step * np.mgrid[-STEPS : STEPS + 1, -STEPS : STEPS + 1].reshape(2, -1).T
    shifts = shifts[np.argsort((shifts**2).sum(1), kind="stable")]
    x0, y0, x1, y1 = bounding_box(hole_hw)
    open_hw, found_hw3 = hole_hw.copy(), np.where(hole_hw[..., None], np.float32(0), grain_hw3)
    for dy, dx in shifts.tolist():
        # The part of the hole's box that stays inside the window when it is shifted.
        top, bottom = max(y0, -dy), min(y1, height - dy)
        left, right = max(x0, -dx), min(x1, width - dx)
        if top >= bottom or left >= right:
            continue
        here = np.s_[top:bottom, left:right]
        there = np.s_[top + dy : bottom + dy, left + dx : right + dx]
        taken_hw = open_hw[here] & free_hw[there]
        # In a large hole most shifts of its depth lead to other places of the hole.
        if not taken_hw.any():
            continue
        copy_region(grain_hw3[there], taken_hw, found_hw3[here])
        open_hw[here] ^= taken_hw
        if not open_hw.any():
            break
    return found_hw3
