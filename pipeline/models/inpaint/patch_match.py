"""PatchMatch as inpainter: the hole is filled with patches of its surroundings, without a network.

After Barnes et al. (SIGGRAPH 2009), by the library pypatchmatch. It copies real texture and sensor
noise, where networks and diffusion smear; what is not nearby it cannot invent.

Shapes: H, W image; h, w window around the hole; 3 colour (RGB, uint8).
"""

import numpy as np

from pipeline.errors import UserError
from pipeline.models.inpaint.base import window
from pipeline.models.inpaint.continued import continued
from pipeline.models.inpaint.plain import plain_fill
from pipeline.models.inpaint.smooth import smooth_fill
from pipeline.records import bounding_box
from pipeline.settings import pixels_at

# Radius of the compared patches in pixels: 7 x 7, as in the library's examples.
PATCH = 3
# Smallest side of the window in pixels, and its side as a multiple of the hole's longer side. Wider
# than a network's: only what lies in the window can be copied. docs/inpainting.md has the measure.
MIN_WINDOW = 192
CONTEXT = 3.0
# Pixels that suffice on each side of a large hole; wider windows only cost time.
AROUND = 128
# Pixels that may be copied, as a multiple of the hole: with less the window grows.
ENOUGH = 2.0
# One constant seed. Holes are filled once per image and used by several samples, so the fill must
# be a function of image and hole alone, and not of the sample that comes first. The library starts
# every search from its seed and keeps no other state between calls, so threads cannot disturb each
# other as long as all set the same one.
SEED = 20261129


class PatchMatchInpainter:
    """Fills from a window around the hole; pixels of `avoid_HW` are never copied.

    Where the window leaves too little to copy it grows up to the whole image; where that leaves
    hardly anything either, everything outside the hole may be copied. On a plain or smooth surface
    no patch is searched for, see `plain` and `smooth`, and straight lines are `continued` first.
    UserError when the library cannot be loaded on this platform.
    """

    def __init__(self) -> None:
        from patchmatch import patch_match

        if not patch_match.patchmatch_available:
            raise UserError(
                "expected the library of pypatchmatch to load, and it does not on this platform; "
                "set models.inpaint.backend to small_lama"
            )
        patch_match.set_random_seed(SEED)
        self._fill = patch_match.inpaint

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        filled_HW3 = image_HW3.copy()
        if not hole_HW.any() or hole_HW.all():
            return filled_HW3
        avoided_HW = np.zeros_like(hole_HW) if avoid_HW is None else avoid_HW & ~hole_HW
        at = _window(hole_HW, avoided_HW)
        plain_hw3 = plain_fill(image_HW3[at], hole_HW[at], avoided_HW[at])
        if plain_hw3 is not None:
            filled_HW3[at] = plain_hw3
            return filled_HW3
        px = pixels_at(1, (hole_HW.shape[0], hole_HW.shape[1]))
        lines = continued(image_HW3[at], hole_HW[at], avoided_HW[at], px)
        filled_HW3[at] = lines.image_hw3
        if not lines.left_hw.any():
            return filled_HW3
        smooth_hw3 = smooth_fill(lines.image_hw3, lines.left_hw, avoided_HW[at], lines.lines_hw, px)
        if smooth_hw3 is not None:
            filled_HW3[at] = smooth_hw3
            return filled_HW3
        if lines.lines_hw.any():
            # Nothing of the lines is copied into the rest.
            image_HW3, hole_HW, avoided_HW = filled_HW3.copy(), hole_HW.copy(), avoided_HW.copy()
            hole_HW[at], avoided_HW[at] = lines.left_hw, avoided_HW[at] | lines.lines_hw
            # More could be copied elsewhere.
            at = _window(hole_HW, avoided_HW)
        if not _enough(hole_HW[at], avoided_HW[at]):
            avoided_HW = np.zeros_like(hole_HW)
            at = _window(hole_HW, avoided_HW)
        hole_hw = np.ascontiguousarray(hole_HW[at])
        filled_hw3 = self._fill(
            np.ascontiguousarray(image_HW3[at]),
            hole_hw,
            global_mask=np.ascontiguousarray(avoided_HW[at]),
            patch_size=PATCH,
        )
        filled_HW3[at][hole_hw] = filled_hw3[hole_hw]
        return filled_HW3


def _window(hole_HW: np.ndarray, avoided_HW: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest window with enough to copy; else of the whole image."""
    box_4, least = bounding_box(hole_HW), MIN_WINDOW
    longest = max(box_4[2] - box_4[0], box_4[3] - box_4[1])
    context = min(CONTEXT, 1 + 2 * AROUND / longest)
    while True:
        x0, y0, x1, y1 = window(box_4, hole_HW.shape, least, context)
        at = np.s_[y0:y1, x0:x1]
        if hole_HW[at].shape == hole_HW.shape or _enough(hole_HW[at], avoided_HW[at]):
            return at
        least = 2 * max(x1 - x0, y1 - y0)


def _enough(hole_hw: np.ndarray, avoided_hw: np.ndarray) -> bool:
    """True when the window leaves enough pixels to copy, in whole patches."""
    side = 2 * PATCH + 1
    free = np.count_nonzero(~(hole_hw | avoided_hw))
    return bool(free >= max(ENOUGH * np.count_nonzero(hole_hw), 4 * side**2))
