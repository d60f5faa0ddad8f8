"""Things beside a mask: regions that differ from the background around and have a sharp edge.

They end nearby, as a leg or a stub does, or run on, as a stripe or a neighbour. Shadows and patches
of the background are softer.

Shapes: H, W image; h, w window; 3 colour (CIELAB, float32).
"""

from collections.abc import Iterator

import cv2
import numpy as np

from pipeline.edits.background_colour import gradient
from pipeline.imaging.masks import dilated, distance_from, window
from pipeline.imaging.region_values import labels_in, values_in
from pipeline.settings import pixels_at

# How far attached pieces may reach, as a share of the root of the part's area, and in px at 256.
REACH, LEAST_REACH, MOST_REACH = 0.7, 8, 40
# Pixels at 256 by which the outline of a proposal may be off; no piece is looked for there.
OFF = 2
# Distance in pixels from the outline up to which something touches it.
NEXT = 1.5
# Smoothing in pixels at 256 before colours are compared.
FINE = 0.7
# CIELAB spread (L, a, b) below which a background counts as plain.
FINE_SPREAD = np.array([2.0, 1.0, 1.0], np.float32)
# Distances from the background, in spreads: a thing has a pixel of SURE, and consists of those
# beyond UNLIKE.
SURE, UNLIKE = 6.0, 4.0
# CIELAB distance of a piece from the background, and how much of it its edge changes per pixel:
# shadows are softer.
CONTRAST, SHARP = 7.0, 0.27
# Background pixels without which nothing can be told.
ENOUGH = 100


def reach_of(mask_HW: np.ndarray) -> float:
    """How far from a part what belongs to it may reach, in pixels."""
    size_HW = mask_HW.shape[0], mask_HW.shape[1]
    low, high = pixels_at(LEAST_REACH, size_HW), pixels_at(MOST_REACH, size_HW)
    return float(np.clip(REACH * np.sqrt(np.count_nonzero(mask_HW)), low, high))


def reached_from(mask_HW: np.ndarray, box_4: np.ndarray, more: float) -> list[float]:
    """The box in which what belongs to a part with box `box_4` may lie, and `more` pixels."""
    reach, (x0, y0, x1, y1) = reach_of(mask_HW) + more, box_4.tolist()
    return [x0 - reach, y0 - reach, x1 + reach, y1 + reach]


def around(
    mask_HW: np.ndarray, box_4: tuple[int, int, int, int]
) -> tuple[tuple[slice, slice], float, np.ndarray]:
    """Where to look around a mask with box `box_4`: the window (rows, columns), how far what
    belongs to the mask may reach in pixels, and the distance from the mask in the window, (h, w).
    """
    reach = reach_of(mask_HW)
    near = near_of(box_4, reach)
    return near, reach, distance_from(mask_HW[near])


def near_of(box_4: tuple[int, int, int, int], reach: float) -> tuple[slice, slice]:
    """The window around a box in which pieces, and the background beyond them, are looked for."""
    x0, y0, x1, y1 = box_4
    pad = int(2 * reach) + 2
    return np.s_[max(0, y0 - pad) : y1 + pad, max(0, x0 - pad) : x1 + pad]


def touching(
    unlike_hw: np.ndarray,
    distance_hw: np.ndarray,
    off: float,
    reach: float,
    *,
    ends: bool = True,
) -> Iterator[np.ndarray]:
    """Regions of pixels `unlike_hw` that begin `off` pixels from a mask and end within `reach`, or
    those that run on."""
    # One pixel beyond the reach, to see what runs on.
    unlike_hw = unlike_hw & (distance_hw > off) & (distance_hw <= reach + 1)
    begins_hw = unlike_hw & (distance_hw <= off + NEXT)
    # Beside a good fill nothing begins.
    if not begins_hw.any():
        return
    _, labels_hw = cv2.connectedComponents(unlike_hw.view(np.uint8))
    begins = labels_in(labels_hw, begins_hw)
    runs_on = labels_in(labels_hw, unlike_hw & (distance_hw > reach))
    wanted = np.setdiff1d(begins, runs_on) if ends else np.intersect1d(begins, runs_on)
    for number in wanted.tolist():
        yield labels_hw == number


def things(
    lab_hw3: np.ndarray,
    found: tuple[np.ndarray, np.ndarray],
    hole_hw: np.ndarray,
    free_hw: np.ndarray,
    reach: float,
    distance_hw: np.ndarray | None = None,
) -> Iterator[np.ndarray]:
    """Things that touch a hole and end within `reach` pixels; `found` is their `deviation`, and
    `distance_hw` the distance from the hole where it is known already."""
    residual_hw3, spreads_hw = found
    if distance_hw is None:
        distance_hw = distance_from(hole_hw)
    for region_hw in touching((spreads_hw > UNLIKE) & free_hw, distance_hw, 0, reach):
        if is_thing(region_hw, residual_hw3, spreads_hw, lab_hw3, ~hole_hw):
            yield region_hw


def is_thing(
    region_hw: np.ndarray,
    residual_hw3: np.ndarray,
    spreads_hw: np.ndarray,
    lab_hw3: np.ndarray,
    free_hw: np.ndarray,
) -> bool:
    """True for a region that clearly differs from the background and has a sharp edge.

    Shadows and patches of the background are softer. Only the edge in `free_hw` counts.
    """
    contrast = float(np.linalg.norm(values_in(residual_hw3, region_hw), axis=1).mean())
    if contrast < CONTRAST or not (spreads_hw[region_hw] > SURE).any():
        return False
    # Small things are many: only the window of each is looked at.
    near = window(region_hw, 3)
    region_hw, free_hw = region_hw[near], free_hw[near]
    inner_hw = cv2.erode(region_hw.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    rim_hw = dilated(region_hw, 1) & ~inner_hw & free_hw
    return float(gradient(lab_hw3[near])[rim_hw].mean()) >= SHARP * contrast
