"""What an edit left of a removed object beside its place: a leg, a stub, a fleck.

Shapes: H, W image; h, w window around the hole; 3 colour (CIELAB, float32).
"""

from functools import cache

import numpy as np

from pipeline.edits.background_colour import deviation, gradient, smooth_lab
from pipeline.edits.things import (
    CONTRAST,
    ENOUGH,
    FINE,
    FINE_SPREAD,
    NEXT,
    OFF,
    SHARP,
    UNLIKE,
    around,
    things,
    touching,
)
from pipeline.imaging.masks import dilated
from pipeline.records import bounding_box
from pipeline.settings import pixels_at

# CIELAB distance up to which what lies beside a hole continues what was removed.
CONTINUES = 12.0
# Share of a hole's rim that may be no background: a stripe, the wall of a compartment.
MOST_CUT = 0.35
# Pixels at 256 around a hole in which that thing must have edges, and the percentile of how much
# colour changes per pixel there. Measured: 1.3 to 1.9 in a stain of wood, 5.8 to 8.9 on a board.
AROUND, EDGES = 4, 90
# Share of a thing that was spared with a part beside it from which it is that part's outline.
OUTLINE_SHARE = 0.5
# Pixels at 256 around the end of such a thing in which the removed object is looked for.
BESIDE = 8
# Pixels at 256 from such an outline into the hole in which it is looked at what the hole covers.
ACROSS = 3


def left_behind(
    images: tuple[np.ndarray, np.ndarray],
    object_HW: np.ndarray,
    hole_HW: np.ndarray,
    other_HW: np.ndarray,
    unlike_HW: np.ndarray,
    spared_HW: np.ndarray,
) -> float:
    """What touches a filled hole and is no background, as a share of the hole; 0 = nothing.

    `images` (uint8) are those before and after the edit that removed `object_HW`. `other_HW` are
    known parts, which may stay, and `unlike_HW` what does not show the background around
    (`fill_sources.not_background`). What reaches far counts only where it continues the object, and
    what was spared (`spared_HW`) as the outline of a part beside it where it continues what the
    hole covers: the rest of a leg. Where more than `MOST_CUT` of the hole's rim is no background,
    it is that share of the rim. 0 also where the surroundings do not tell.
    """
    size_HW = hole_HW.shape[0], hole_HW.shape[1]
    near, reach, distance_hw = around(hole_HW, bounding_box(hole_HW))
    hole_hw = hole_HW[near]
    free_hw = ~dilated(other_HW[near], round(pixels_at(OFF, size_HW)))
    far_hw = (distance_hw > reach) & (distance_hw <= 2 * reach) & free_hw & ~unlike_HW[near]
    if np.count_nonzero(far_hw) < ENOUGH:
        return 0.0
    lab_hw3 = smooth_lab(images[1][near], pixels_at(FINE, size_HW))
    found = deviation(lab_hw3, far_hw, FINE_SPREAD)
    # Few edits leave anything that is compared with what was there before.
    before = cache(lambda: smooth_lab(images[0][near], pixels_at(FINE, size_HW)))

    def continues(region_hw: np.ndarray, from_hw: np.ndarray, beside: float) -> bool:
        next_hw = region_hw & (distance_hw <= 2 * NEXT)
        own_hw = from_hw & dilated(next_hw, round(pixels_at(beside, size_HW)))
        if not own_hw.any():
            return False
        step_3 = before()[own_hw].mean(0) - before()[next_hw].mean(0)
        return bool(np.linalg.norm(step_3) < CONTINUES)

    left, seen_hw, spared_hw = 0, object_HW[near], spared_HW[near]
    for thing_hw in things(lab_hw3, found, hole_hw, free_hw, reach, distance_hw):
        count = int(np.count_nonzero(thing_hw))
        outline = np.count_nonzero(thing_hw & spared_hw) > OUTLINE_SHARE * count
        if not outline or continues(thing_hw, hole_hw, ACROSS):
            left += count
    unlike_hw = (found[1] > UNLIKE) & free_hw
    for region_hw in touching(unlike_hw, distance_hw, 0, reach, ends=False):
        if continues(region_hw, seen_hw, BESIDE):
            left += int(region_hw.sum())
    # Where much of the rim is no background the hole cuts through something: no fill can be right.
    # A stain or another light is no thing: its edges are soft.
    rim_hw = (distance_hw > 0) & (distance_hw <= NEXT)
    cut = float((unlike_hw & ~spared_hw)[rim_hw].mean())
    if cut > MOST_CUT:
        around_hw = (distance_hw > 0) & (distance_hw <= round(pixels_at(AROUND, size_HW))) & free_hw
        edges = gradient(lab_hw3)[around_hw]
        cut = cut if float(np.percentile(edges, EDGES)) >= SHARP * CONTRAST else 0.0
    else:
        cut = 0.0
    return max(left / np.count_nonzero(hole_hw), cut)
