"""Whether the outline of a proposal is one of the image: where it cuts a part, there is no edge.

Half a screw or a nut without its corners is no part, and whoever cuts it out, scales or recolours
it shows that. Seen is an outline with a step of colour within `OFF` pixels that is larger than
those of the surroundings, which may be wood or cloth.

Shapes: H, W image; h, w window; 3 colour (CIELAB, float32).
"""

import cv2
import numpy as np

from pipeline.edits.background_colour import gradient, smooth_lab
from pipeline.edits.things import FINE, OFF
from pipeline.imaging.masks import dilated
from pipeline.records import bounding_box
from pipeline.settings import pixels_at

# Share of an outline that must be seen. Measured: nearly all whole parts of eight sets 1.00, nuts
# without corners 0.92 to 0.94, half a screw 0.95, half a transistor 0.88, patches of shell 0.7.
SEEN = 0.96
# Pixels at 256 of the surroundings that are compared, the percentile of their steps (a wall may be
# near), how much larger an edge is, and its least step (CIELAB per pixel at 256).
AROUND, USUAL, LARGER, LEAST = 6, 40, 2.2, 1.2


def outline_is_seen(image_HW3: np.ndarray, mask_HW: np.ndarray) -> bool:
    """True when nearly all of a mask's outline inside the image (uint8) lies on edges."""
    size_HW = mask_HW.shape[0], mask_HW.shape[1]
    off, around = round(pixels_at(OFF, size_HW)), round(pixels_at(AROUND, size_HW))
    x0, y0, x1, y1 = bounding_box(mask_HW)
    pad = off + around + 2
    near = np.s_[max(0, y0 - pad) : y1 + pad, max(0, x0 - pad) : x1 + pad]
    mask_hw = mask_HW[near]
    step_hw = gradient(smooth_lab(image_HW3[near], pixels_at(FINE, size_HW)))
    step_hw *= pixels_at(1, size_HW)
    beside_hw = dilated(mask_hw, off + around) & ~dilated(mask_hw, off + 2)
    usual = float(np.percentile(step_hw[beside_hw], USUAL)) if beside_hw.any() else 0.0
    # What the frame cuts has no outline there: the border of `erode` counts as part of the mask.
    inner_hw = cv2.erode(mask_hw.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    edge_hw = dilated(step_hw >= max(LEAST, LARGER * usual), off)
    rim_hw = mask_hw & ~inner_hw
    return not rim_hw.any() or float(edge_hw[rim_hw].mean()) >= SEEN
