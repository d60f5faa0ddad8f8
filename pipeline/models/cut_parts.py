"""Parts that SAM cut in two: halves of a candy cane, the needle and the barrel of a syringe.

Parts that touch meet at a neck, or along their sides. Where two masks fill one component of the
foreground, and it is as thick between them as they are themselves, they are one part cut across.

Shapes: N masks; M new masks; H, W image; h, w window.
"""

from itertools import combinations

import cv2
import numpy as np

from pipeline.imaging.masks import window
from pipeline.models.mask_filter import PRODUCT
from pipeline.records import ForegroundMask

# A mask belongs to a component by this share of its area, and shows all of it if it is more than
# the second share of it; the parts fill at least the third share, and overlap at most by the last.
INSIDE, SMALLER, FILLED, APART = 0.85, 0.85, 0.75, 0.15
# Thickness of the component where two of its parts meet, relative to the thinner one of them.
# Measured: canes and syringes cut across 0.8 to 1.0, cherries that touch 0.6 to 0.7.
THICKNESS = (0.75, 1.3)


def put_together(masks_NHW: np.ndarray, foreground: ForegroundMask) -> np.ndarray:
    """The components of the foreground that are one part of which masks show pieces, (M, H, W)."""
    found = []
    if not foreground.fallback and len(masks_NHW) > 1:
        count, labels_HW = cv2.connectedComponents(foreground.mask_HW.astype(np.uint8))
        areas_N = masks_NHW.sum((1, 2))
        inside_NC = np.stack([
            np.bincount(labels_HW[mask_HW], minlength=count) for mask_HW in masks_NHW
        ])  # fmt: skip
        for label in range(1, count):
            component_HW = labels_HW == label
            area = int(component_HW.sum())
            # The product itself is known, and its parts may be parts.
            if area >= PRODUCT * foreground.mask_HW.sum():
                continue
            inside_N = inside_NC[:, label] >= INSIDE * areas_N
            # A mask shows it already: it was no pile of its pieces, which are too small.
            if (inside_N & (areas_N > SMALLER * area)).any():
                continue
            # The largest first: pieces of them are none of the component.
            parts: list[int] = []
            for index in sorted(np.flatnonzero(inside_N).tolist(), key=lambda k: -areas_N[k]):
                shared = [(masks_NHW[index] & masks_NHW[k]).sum() for k in parts]
                if max(shared, default=0) <= APART * areas_N[index]:
                    parts.append(index)
            near = window(component_HW)
            chosen_Nhw = masks_NHW[parts][(slice(None), *near)]
            filled = int((chosen_Nhw.any(0) & component_HW[near]).sum())
            whole = len(parts) > 1 and filled >= FILLED * area
            if whole and _is_cut(component_HW[near], chosen_Nhw):
                found.append(component_HW)
    return np.array(found, np.bool_).reshape(-1, *masks_NHW.shape[1:])


def _is_cut(component_hw: np.ndarray, parts_Nhw: np.ndarray) -> bool:
    """True when every two parts that meet are one, cut across."""
    deep_hw = _depth(component_hw)
    away_Nhw = np.stack([_depth(~part_hw) for part_hw in parts_Nhw])
    nearest_Nhw = away_Nhw.argsort(0, kind="stable")
    first_hw, second_hw = np.sort(away_Nhw, 0)[:2]
    meet_hw = component_hw & (second_hw - first_hw <= 1)
    met = 0
    for pair in combinations(range(len(parts_Nhw)), 2):
        between_hw = meet_hw & np.isin(nearest_Nhw[:2], pair).all(0)
        if not between_hw.any():
            continue
        met += 1
        thinner = min(float(_depth(parts_Nhw[k] & component_hw).max()) for k in pair)
        low, high = THICKNESS
        if not low * thinner <= float(deep_hw[between_hw].max()) <= high * thinner:
            return False
    return met > 0


def _depth(mask_hw: np.ndarray) -> np.ndarray:
    """How deep each pixel lies in a mask, in pixels; 0 outside."""
    return cv2.distanceTransform(mask_hw.astype(np.uint8), cv2.DIST_L2, 5)
