"""Which proposals are whole parts, which are pieces of them, which is the product itself.

SAM answers at all levels: two bottles that touch, one bottle, the disc inside its mouth. An edit
wants whole parts. A mask that several others fill is a pile and is dropped; a mask inside another
one is its piece; a mask that is nearly all of the foreground is the product.

Shapes: N masks; H, W image.
"""

import cv2
import numpy as np

from pipeline.imaging.artifacts import outline_ratio
from pipeline.imaging.masks import window
from pipeline.models.component_outlines import outlined_by_components
from pipeline.models.cut_parts import put_together
from pipeline.models.mask_filter import PRODUCT, largest_component, packed
from pipeline.models.settings import ProposalSettings
from pipeline.records import (
    WHOLE_PART,
    WHOLE_PRODUCT,
    ForegroundMask,
    ObjectProposals,
    bounding_box,
)

# A mask lies inside another one by at least this share of its own area.
INSIDE = 0.85
# Share of a mask that at least two disjoint others fill when it is a pile of them.
FILLED = 0.7
# Two parts of a pile share at most this much of the smaller one, and each holds at least this
# share of the pile: a nut and the cap on it are no pile.
APART, LEAST = 0.15, 0.15
# Two parts that touch are less convex (share of the convex hull) than one of them, by this much;
# one of them holds at most this share of both.
LESS_CONVEX, ONE_OF_TWO = 0.05, 0.65
# A mask inside another one that is larger than this share of it outlines the same part again.
SAME = 0.7
# Gradient on the outline of a part against both sides of it; texture of a product stays below.
# Measured: patches of hazelnut shell 0.9 to 1.36 (median 1.02), parts on drawn products 1.06 and
# more (medians 1.9 to 3.4), holes in the transistor's board 5.3.
OUTLINE = 1.2
# Largest share of the image that the product holds.
LARGEST_PRODUCT = 0.8


def in_order(
    masks_NHW: np.ndarray,
    scores_N: np.ndarray,
    foreground: ForegroundMask,
    relaxed: tuple[str, ...],
    settings: ProposalSettings,
    image_HW3: np.ndarray,
) -> ObjectProposals:
    """Masks, best first, as proposals: whole parts, then pieces, last the product.

    A mask on the product without a visible outline is a piece of it.
    Piles and second outlines of a part are dropped."""
    if not foreground.fallback:
        masks_NHW = outlined_by_components(masks_NHW, foreground.mask_HW)
    for drop in (piles, repeated):
        single_N = ~drop(masks_NHW)
        # Without a need, no copy: masks of large images are tenths of a GB.
        if not single_N.all():
            masks_NHW, scores_N = masks_NHW[single_N], scores_N[single_N]
    together_NHW = put_together(masks_NHW, foreground)
    if len(together_NHW):
        least_N = np.full(len(together_NHW), scores_N.min(), scores_N.dtype)
        masks_NHW = np.concatenate((masks_NHW, together_NHW))
        scores_N = np.append(scores_N, least_N)
    parents_N = parents_of(masks_NHW, foreground.mask_HW)
    if not (parents_N == WHOLE_PRODUCT).any():
        product = product_of(masks_NHW, foreground, settings)
        if product is not None:
            masks_NHW = np.concatenate((masks_NHW, product[0][None]))
            scores_N = np.append(scores_N, np.float32(product[1]))
            parents_N = np.append(parents_N, np.int32(WHOLE_PRODUCT))
    product_N = np.flatnonzero(parents_N == WHOLE_PRODUCT)
    if len(product_N):
        for index in np.flatnonzero(parents_N == WHOLE_PART):
            if not _stands_out(image_HW3, masks_NHW[index]):
                parents_N[index] = product_N[0]
    rank_N = np.where(parents_N == WHOLE_PRODUCT, 2, parents_N != WHOLE_PART)
    order_N = np.argsort(rank_N, kind="stable")
    # Parents are indices, which the new order changes.
    place_N = np.argsort(order_N).astype(np.int32)
    moved_N = place_N[np.maximum(parents_N, 0)]
    parents_N = np.where(parents_N >= 0, moved_N, parents_N).astype(np.int32)
    return ObjectProposals(
        masks_NHW[order_N], scores_N[order_N], foreground.mask_HW, relaxed,
        parent_N=parents_N[order_N],
    )  # fmt: skip


def product_of(
    masks_NHW: np.ndarray, foreground: ForegroundMask, settings: ProposalSettings
) -> tuple[np.ndarray, float] | None:
    """The component that is nearly all foreground, (H, W) bool, and its share; None without one.

    `masks_NHW` are the parts found, which may lie outside of the foreground.
    """
    if foreground.fallback:
        return None
    mask_HW, most = largest_component(foreground.mask_HW)
    # Where the outline is known, a leg may end behind what looks like its background.
    if foreground.pattern_HW is not None and most >= PRODUCT:
        mask_HW = foreground.mask_HW
    share = mask_HW.sum() / max(int((foreground.mask_HW | masks_NHW.any(0)).sum()), 1)
    border = sum(
        int(side.sum()) for side in (mask_HW[0], mask_HW[-1], mask_HW[:, 0], mask_HW[:, -1])
    )
    alone = share >= PRODUCT and settings.min_area <= mask_HW.mean() <= LARGEST_PRODUCT
    if not alone or border > settings.max_border * 2 * sum(mask_HW.shape):
        return None
    return mask_HW, min(1.0, float(share))


def shared_NN(masks_NHW: np.ndarray) -> np.ndarray:
    """Pixels that each two masks share, (N, N) float32; the areas are on the diagonal."""
    # As floats, 32 masks of a megapixel would take 128 MB.
    bits_NK = packed(masks_NHW)
    rows = [np.bitwise_count(bits_NK & bits_K).sum(1, np.int64) for bits_K in bits_NK]
    return np.array(rows, np.float32).reshape(len(masks_NHW), len(masks_NHW))


def piles(masks_NHW: np.ndarray) -> np.ndarray:
    """Which masks, sorted best first, are piles of several parts; bool (N,).

    A pile is filled by at least two others, or it holds one that is clearly more convex.
    """
    convexity_N = np.array([_convexity(mask_HW) for mask_HW in masks_NHW])
    both_NN = shared_NN(masks_NHW)
    areas_N = np.diag(both_NN)
    found_N = np.zeros(len(masks_NHW), np.bool_)
    # Small ones first, so that a pile of piles is one of its parts only.
    for index in np.argsort(areas_N, kind="stable").tolist():
        within = (both_NN[index] >= INSIDE * areas_N) & (areas_N >= LEAST * areas_N[index])
        within &= ~found_N & (areas_N < INSIDE * areas_N[index])
        chosen: list[int] = []
        # The largest fill the most; masks of equal rank keep their order.
        for other in sorted(np.flatnonzero(within).tolist(), key=lambda i: -areas_N[i]):
            least = np.minimum(areas_N[other], areas_N[chosen])
            if (both_NN[other, chosen] <= APART * least).all():
                chosen.append(other)
        filled = both_NN[index, chosen].sum()
        bulky_N = within & (areas_N <= ONE_OF_TWO * areas_N[index])
        dented = convexity_N[bulky_N].max(initial=0) >= convexity_N[index] + LESS_CONVEX
        found_N[index] = dented or (len(chosen) > 1 and filled >= FILLED * areas_N[index])
    return found_N


def repeated(masks_NHW: np.ndarray) -> np.ndarray:
    """Which masks, sorted best first, outline a part that a better one outlines; bool (N,)."""
    both_NN = shared_NN(masks_NHW)
    areas_N = np.diag(both_NN)
    found_N = np.zeros(len(masks_NHW), np.bool_)
    for index in range(1, len(masks_NHW)):
        better = np.flatnonzero(~found_N[:index])
        shared = both_NN[index, better]
        smaller = np.minimum(areas_N[better], areas_N[index])
        larger = np.maximum(areas_N[better], areas_N[index])
        found_N[index] = ((shared >= INSIDE * smaller) & (smaller >= SAME * larger)).any()
    return found_N


def parents_of(masks_NHW: np.ndarray, foreground_HW: np.ndarray) -> np.ndarray:
    """`ObjectProposals.parent_N` of some masks, int32 (N,)."""
    both_NN = shared_NN(masks_NHW)
    areas_N = np.diag(both_NN)
    parents_N = np.full(len(masks_NHW), WHOLE_PART, np.int32)
    # Parts that the foreground lacks count, too: a nut is no product because U²-Net saw no other.
    together = int((foreground_HW | masks_NHW.any(0)).sum())
    is_product_N = areas_N >= PRODUCT * max(together, 1)
    for index, area in enumerate(areas_N.tolist()):
        if is_product_N[index]:
            parents_N[index] = WHOLE_PRODUCT
            continue
        # Parts that lie on a product are wholes all the same.
        around = (both_NN[index] >= INSIDE * area) & (areas_N > area) & ~is_product_N
        if around.any():
            # The smallest whole around it.
            parents_N[index] = min(np.flatnonzero(around).tolist(), key=lambda i: areas_N[i])
    return parents_N


def _stands_out(image_HW3: np.ndarray, mask_HW: np.ndarray) -> bool:
    near = window(mask_HW)
    return outline_ratio(image_HW3[near], mask_HW[near]) >= OUTLINE


def _convexity(mask_HW: np.ndarray) -> float:
    """The share of its convex hull that a mask fills; legs, dents and gaps lower it."""
    x0, y0, x1, y1 = bounding_box(mask_HW)
    mask_hw = mask_HW[y0:y1, x0:x1]
    rows = np.flatnonzero(mask_hw.any(1))
    if not len(rows):
        return 0.0
    # The ends of the rows have the same hull as all pixels.
    first, last = mask_hw.argmax(1)[rows], mask_hw.shape[1] - 1 - mask_hw[:, ::-1].argmax(1)[rows]
    points_P2 = np.stack((np.append(first, last), np.append(rows, rows)), 1).astype(np.int32)
    # Of pixel centres, so a few pixels are added for the half that sticks out on each side.
    hull = cv2.convexHull(points_P2[:, None])
    area = int(np.count_nonzero(mask_hw))
    return area / (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1)
