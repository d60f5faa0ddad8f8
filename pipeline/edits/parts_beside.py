"""The parts beside an object, which a hole in its place must not cut into.

Shapes: H, W image; N objects (proposals).
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipeline.imaging.masks import distance_from, window
from pipeline.imaging.surroundings import ring_around, surrounds
from pipeline.records import ObjectProposals, bounding_box
from pipeline.settings import pixels_at

# Share of the smaller of two masks from which they are the same part, or a part and its piece.
SAME_PART = 0.3
# Pixels at 256 by which the outline of a part may be off, at most, and where it is off farther as
# the outlines of dim bottle mouths are: what is so far out is a part's if it is nearer to it.
OUTLINE, FARTHER = 2, 6
# Pixels at 256 around a target that its hole may reach.
AROUND = 64


def parts_beside(proposals: ObjectProposals, targets: Sequence[int]) -> list[int]:
    """Whole parts other than the targets, without those that the targets lie on.

    A part that shares much with the targets is one of them under another number, or contains them.
    """
    masks_NHW = proposals.masks_NHW
    target_HW = masks_NHW[list(targets)].any(0)
    area, beside = np.count_nonzero(target_HW), []
    rings = [ring_around(masks_NHW[one], bounding_box(masks_NHW[one])) for one in targets]
    for index in np.flatnonzero(proposals.whole_N).tolist():
        mask_HW = masks_NHW[index]
        shared = np.count_nonzero(mask_HW & target_HW)
        # A target shares all its pixels with itself.
        same = shared > SAME_PART * min(area, np.count_nonzero(mask_HW))
        if not same and not any(surrounds(mask_HW, ring) for ring in rings):
            beside.append(index)
    return beside


def spared(target_HW: np.ndarray, remnants_HW: np.ndarray, beside_HW: np.ndarray) -> np.ndarray:
    """What of an image belongs to the parts beside a target, (H, W) bool.

    A proposal's outline may be off, so the last pixels of a part may lie outside its mask: those
    that are nearer to it than to the target, and those next to it unless they are next to both.
    `remnants_HW` are small things beside the target: those that begin at it are its own.
    """
    if not beside_HW.any():
        return beside_HW
    size_HW = target_HW.shape[0], target_HW.shape[1]
    near = window(target_HW, round(pixels_at(AROUND, size_HW)))
    target_hw, beside_hw = target_HW[near], beside_HW[near]
    away_hw, aside_hw = distance_from(target_hw), distance_from(beside_hw)
    count, labels_hw = cv2.connectedComponents((remnants_HW[near] & ~beside_hw).astype(np.uint8))
    for number in range(1, count):
        thing_hw = labels_hw == number
        if away_hw[thing_hw].min() < aside_hw[thing_hw].min():
            target_hw = target_hw | thing_hw
    away_hw, outline = distance_from(target_hw), pixels_at(OUTLINE, size_HW)
    spared_HW = beside_HW.copy()
    spared_HW[near] |= (aside_hw <= outline) & (away_hw > outline)
    spared_HW[near] |= (aside_hw < away_hw) & (aside_hw <= pixels_at(FARTHER, size_HW))
    return spared_HW
