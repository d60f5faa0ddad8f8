"""Masks that can hardly be meant: empty, full, inverted."""

from dataclasses import dataclass

import numpy as np

# Shares of the image: a mask above the first is full, one above the second marks most of it. Of an
# inverted mask most of the border is marked. In MVTec AD and LOCO the largest are near one half.
_FULL, _MOST, _BORDER = 0.98, 0.75, 0.9


@dataclass(frozen=True, slots=True)
class MaskDoubt:
    """What is implausible about the mask of one image, and the share of the image it marks."""

    name: str
    share: float
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason} ({self.share:.1%} of the image is marked)"


def mask_doubt(name: str, mask_HW: np.ndarray) -> MaskDoubt | None:
    """The doubt about a bool mask, all regions of the image together; None for a plausible one."""
    share = float(np.count_nonzero(mask_HW)) / mask_HW.size
    border_N = np.concatenate((mask_HW[0], mask_HW[-1], mask_HW[:, 0], mask_HW[:, -1]))
    reason = ""
    if not share:
        reason = "the mask is empty"
    elif share >= _FULL:
        reason = "the mask is full"
    elif share > 0.5 and border_N.mean() >= _BORDER:
        reason = "the mask looks inverted: it marks the border of the image"
    elif share > _MOST:
        reason = "the mask marks most of the image"
    return MaskDoubt(name, share, reason) if reason else None
