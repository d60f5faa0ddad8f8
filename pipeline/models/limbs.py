"""The limbs of a product whose outline is known: what sticks out of its body, as legs or a cable.

SAM often sees the bright half of a leg only. Where the outline is exact, since the background
repeats itself (`pattern_foreground`), its shape tells more: an opening by a disc leaves the body,
and what it takes away and reaches far from the body is a limb.

Shapes: N masks; L limbs; H, W image.
"""

import cv2
import numpy as np

from pipeline.imaging.masks import distance_from

# Radius of the disc, as a share of the largest one that fits into the product.
THICK = 0.3
# Share of the product that a limb has at least.
LEAST = 0.01
# A limb begins that near to the body, in pixels.
BEGINS = 3.0
# A mask that lies on a limb by this share shows the limb.
ON_LIMB = 0.7


def limbs_of(product_HW: np.ndarray) -> np.ndarray:
    """The limbs of a product (bool), from left to right, (L, H, W) bool."""
    # Borders count as product's end.
    inside_HW = np.pad(product_HW, 1).astype(np.uint8)
    depth_HW = cv2.distanceTransform(inside_HW, cv2.DIST_L2, 5)[1:-1, 1:-1]
    radius = THICK * float(depth_HW.max())
    core_HW = depth_HW > radius
    if not core_HW.any():
        return np.zeros((0, *product_HW.shape), np.bool_)
    away_HW = distance_from(core_HW) - radius
    # The opening of a straight edge is off by a pixel.
    rest_HW = product_HW & (away_HW > 1)
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(rest_HW.astype(np.uint8))
    least = LEAST * np.count_nonzero(product_HW)
    found = []
    for label in np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= least).tolist():
        limb_HW = labels_HW == label
        # Rounded corners of the body stay near it, and the end of a leg begins elsewhere.
        if label and away_HW[limb_HW].max() >= radius and away_HW[limb_HW].min() <= BEGINS:
            found.append((int(stats[label, cv2.CC_STAT_LEFT]), limb_HW))
    found.sort(key=lambda one: one[0])
    return np.array([limb_HW for _, limb_HW in found], np.bool_).reshape(-1, *product_HW.shape)


def with_limbs(
    masks_NHW: np.ndarray, scores_N: np.ndarray, product_HW: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and scores with every limb of the product once, first, instead of pieces of it."""
    limbs_LHW = limbs_of(product_HW)
    if not len(limbs_LHW):
        return masks_NHW, scores_N
    free = []
    for index, mask_HW in enumerate(masks_NHW):
        least = ON_LIMB * np.count_nonzero(mask_HW)
        if not any(np.count_nonzero(mask_HW & limb_HW) >= least for limb_HW in limbs_LHW):
            free.append(index)
    sure_L = np.full(len(limbs_LHW), scores_N.max(initial=0.5), scores_N.dtype)
    return (
        np.concatenate((limbs_LHW, masks_NHW[free])),
        np.concatenate((sure_L, scores_N[free])),
    )
