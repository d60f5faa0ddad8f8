"""The parts beside an object, which a hole in its place must not cut into.

Shapes: H, W image; N objects (proposals).
"""

from collections.abc import Sequence

import numpy as np

from pipeline.imaging.surroundings import ring_around, surrounds
from pipeline.records import ObjectProposals, bounding_box

# Share of the smaller of two masks from which they are the same part, or a part and its piece.
SAME_PART = 0.3


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
