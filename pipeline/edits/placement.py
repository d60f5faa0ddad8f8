"""Valid destinations of an object: inside the image, on its kind of background, with little overlap
with other objects."""

import cv2
import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import worth_editing
from pipeline.imaging.masks import Box, MaskCrop, disjoint
from pipeline.imaging.surroundings import ring_around, surrounds

# Random destinations that are tried before an edit is abandoned.
PLACES = 96
# Largest share of an object that may overlap others, and largest share by which it may overlap one
# whole part, of either of them: parts do not lie across one another.
MAX_OVERLAP, TOUCHING = 0.15, 0.05
# Smallest share of an object that must lie on the kind of background that it came from.
MIN_BACKGROUND = 0.95


def fits(
    context: ImageContext,
    target: int,
    crop: MaskCrop,
    background_HW: np.ndarray,
    held: float = MIN_BACKGROUND,
) -> bool:
    """True when an outline may take the target's place.

    `background_HW` is where the target may lie, `held` the share of the outline that must be on it.
    """
    return (
        crop.inside_frame(context.size_HW)
        and crop.share_on(background_HW) >= held
        and is_free(context, crop, (target,))
    )


def is_free(context: ImageContext, crop: MaskCrop, targets: tuple[int, ...]) -> bool:
    """True where an outline lies on no obstacle to speak of. `targets` are none, and where one is
    the product itself, nor are its parts, which go with it."""
    x0, y0, x1, y1 = crop.box_4
    if any(context.is_product(target) for target in targets):
        beside_N = context.cached(lambda: context.proposals.beside_N, "beside")
        targets = (*targets, *np.flatnonzero(~beside_N).tolist())
    # Box tests first, and no call for each: most objects are far away.
    others = [
        i
        for i, (left, top, right, bottom) in _boxes_of_obstacles(context, crop.area)
        if left < x1 and x0 < right and top < y1 and y0 < bottom and i not in targets
    ]
    if not others:
        return True
    # All in the outline's own box. Pixels of the targets become free, even under other objects.
    free_hw = crop.mask_hw
    for target in targets:
        free_hw = free_hw & ~context.proposals.masks_NHW[target, y0:y1, x0:x1]
    taken_hw = np.zeros(crop.mask_hw.shape, np.bool_)
    for index in others:
        shared_hw = context.proposals.masks_NHW[index, y0:y1, x0:x1] & free_hw
        smaller = min(crop.area, int(context.areas_N[index]))
        # A mark on what lies there may be hidden, but no whole part.
        if context.is_whole(index) and np.count_nonzero(shared_hw) > TOUCHING * smaller:
            return False
        taken_hw |= shared_hw
    return bool(np.count_nonzero(taken_hw) <= MAX_OVERLAP * crop.area)


def told_by_boxes(
    context: ImageContext,
    crop: MaskCrop,
    corners_P2: np.ndarray,
    background_HW: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What boxes alone tell of many places of an outline inside the image, given by their corners
    (P, 2), x and y: for which nothing lies in the box, and which are off the background, (P,) bool.
    """
    rows, columns = crop.mask_hw.shape
    taken_HW = context.union([index for index, _ in _boxes_of_obstacles(context, crop.area)])
    left_P, top_P = corners_P2.T

    def counts(mask_HW: np.ndarray) -> np.ndarray:
        """The True pixels in each box, (P,)."""
        sums = cv2.integral(mask_HW.view(np.uint8))
        right_P, bottom_P = left_P + columns, top_P + rows
        upper_P = sums[top_P, right_P] - sums[top_P, left_P]
        counted_P: np.ndarray = sums[bottom_P, right_P] - sums[bottom_P, left_P] - upper_P
        return counted_P

    most_P = np.minimum(counts(background_HW), crop.area)
    return counts(taken_HW) == 0, most_P / max(1, crop.area) < MIN_BACKGROUND


def _boxes_of_obstacles(context: ImageContext, area: int) -> list[tuple[int, Box]]:
    return context.cached(
        lambda: [(i, context.crops[i].box_4) for i in obstacles(context, area)], "obstacles", area
    )


def obstacles(context: ImageContext, area: int) -> list[int]:
    """The objects that another one of that area (pixels) may not be laid on.

    Every whole part, unless something lies on it: a tray, a board, a bottle with its label. Of
    these, and of pieces of parts, those that are hardly larger.
    """
    carries_N = context.cached(lambda: _carriers(context), "carriers")
    return [
        index
        for index, other in enumerate(context.areas_N.tolist())
        if other <= SIMILAR_AREA * area or (context.is_whole(index) and not carries_N[index])
    ]


def _carriers(context: ImageContext) -> np.ndarray:
    """Which objects surround a whole part, (N,) bool."""
    masks_NHW = context.proposals.masks_NHW
    carries_N = np.zeros(len(context), np.bool_)
    for part in filter(context.is_whole, range(len(context))):
        box_4 = context.crops[part].box_4
        ring = ring_around(masks_NHW[part], box_4)
        for index in np.flatnonzero(~carries_N).tolist():
            if index != part and not disjoint(box_4, context.crops[index].box_4):
                carries_N[index] = surrounds(masks_NHW[index], ring)
    return carries_N


def shuffled(
    context: ImageContext, rng: np.random.Generator, *, uncovers: bool = True
) -> list[int]:
    """The movable objects that are worth editing (indices) in random order."""
    found = worth_editing(context, movable=True, uncovers=uncovers)
    return [int(index) for index in rng.permutation(found)]
