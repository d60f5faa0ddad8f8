"""Outlines from the foreground: where one component is one part, it is drawn more exactly than SAM.

Measured on parts cut out of photographs (12 free scenes, part by part, mean IoU with the truth):
bottles 0.970 for U²-Net's component against 0.899 for the small SAM's mask, hazelnuts 0.989 against
0.962, transistors with their thin legs 0.900 against 0.871. So SAM says what is one part, and the
component says where it ends.

Shapes: N masks; H, W image; K words of 64 pixels.
"""

import cv2
import numpy as np

from pipeline.imaging.masks import window
from pipeline.models.mask_filter import packed

# IoU of a mask with a component from which both show the same part.
SAME_PART = 0.6
# A mask that fills this share of what another one leaves of the component, and overlaps that one by
# at most the second share of itself, is a second part of the component.
SECOND, APART = 0.5, 0.3


def outlined_by_components(masks_NHW: np.ndarray, foreground_HW: np.ndarray) -> np.ndarray:
    """The masks (bool), those that match a component of the foreground replaced by it."""
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(foreground_HW.astype(np.uint8))
    result_NHW = masks_NHW.copy()
    bits_NK = packed(masks_NHW)
    areas_N = _counted(bits_NK)
    for index, mask_HW in enumerate(masks_NHW):
        # Only where the mask is.
        near = window(mask_HW, 0)
        inside = np.bincount(labels_HW[near][mask_HW[near]], minlength=count)
        # Label 0 is the background.
        label = 1 + int(inside[1:].argmax()) if count > 1 else 0
        shared = int(inside[label]) if label else 0
        either = int(areas_N[index]) + int(stats[label, cv2.CC_STAT_AREA]) - shared
        if not shared or shared < SAME_PART * either:
            continue
        component_HW = labels_HW == label
        rest_K = packed((component_HW & ~mask_HW)[None])[0]
        if not _holds_another(index, bits_NK, areas_N, rest_K):
            result_NHW[index] = component_HW
    return result_NHW


def _holds_another(
    index: int, bits_NK: np.ndarray, areas_N: np.ndarray, rest_K: np.ndarray
) -> bool:
    """True when another mask shows a part in what mask `index` leaves of its component."""
    fills_N = _counted(bits_NK & rest_K) >= SECOND * max(int(_counted(rest_K)), 1)
    apart_N = _counted(bits_NK & bits_NK[index]) <= APART * areas_N
    return bool((fills_N & apart_N).any())


def _counted(bits_NK: np.ndarray) -> np.ndarray:
    """The pixels in each row of words."""
    counts_N: np.ndarray = np.bitwise_count(bits_NK).sum(-1, dtype=np.int64)
    return counts_N
