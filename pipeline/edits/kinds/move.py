"""`extra`: an object is duplicated. `misplaced`: it is moved to another place.

Offsets are whole pixels, so a pasted object keeps its sensor noise.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import PRODUCT_MOVE, bare, has_own_places, unusual_place
from pipeline.edits.placement import MIN_BACKGROUND, PLACES, is_free, shuffled, told_by_boxes
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import shifted
from pipeline.records import Edit, ObjectProposals

# Objects that are tried, each at PLACES destinations.
TARGETS = 4


def plan_extra(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    return _moved(context, rng, stays=True)


def plan_misplaced(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    return _moved(context, rng, stays=False)


def _moved(context: ImageContext, rng: np.random.Generator, *, stays: bool) -> Found | None:
    # One object after the other, as some have no free place.
    for target in shuffled(context, rng, uncovers=not stays)[:TARGETS]:
        offset = _free_offset(context, target, rng, stays=stays)
        if offset is not None:
            before = context.crops[target]
            boxes = [before.box_4, before.moved(*offset).box_4]
            return (target,), {"offset": list(offset)}, boxes
    return None


def _free_offset(
    context: ImageContext, target: int, rng: np.random.Generator, *, stays: bool
) -> tuple[int, int] | None:
    """A random valid offset (x, y) of the target, or None. With `stays` its own place is occupied.

    All destinations are drawn at once: how many are used does not shift later random numbers.
    """
    crop = context.crops[target]
    background_HW = context.background_of(target)
    rows, columns = crop.mask_hw.shape
    height, width = context.size_HW
    # A move by less than half the shorter side does not count as misplaced.
    reach = max(2, min(columns, rows) // 2)
    if context.is_product(target):
        reach = max(2, round(PRODUCT_MOVE * max(columns, rows)))
    # From 1 on, so that the object touches no edge of the image.
    lefts_P = rng.integers(1, width - columns, PLACES)
    tops_P = rng.integers(1, height - rows, PLACES)
    # No place is wrong for a kind that lies anywhere.
    if not stays and not has_own_places(context, target, crop):
        return None
    corners_P2 = np.stack((lefts_P, tops_P), 1)
    free_P, off_P = told_by_boxes(context, crop, corners_P2, background_HW)
    moves_P2 = corners_P2 - (crop.x, crop.y)
    possible_P = ~off_P & (np.square(moves_P2).sum(1) >= reach * reach)
    # The first valid destination wins.
    for number in np.flatnonzero(possible_P).tolist():
        dx, dy = moves_P2[number].tolist()
        place = crop.moved(dx, dy)
        # A copy is one too many anywhere; a part that moved must lie where none belongs.
        if not (stays or unusual_place(context, target, place)):
            continue
        # On its own kind of background, and hardly on other objects.
        if place.share_on(background_HW) < MIN_BACKGROUND:
            continue
        if not (free_P[number] or is_free(context, place, () if stays else (target,))):
            continue
        # Colours are compared last, as that costs most.
        if bare(context, target, place):
            return dx, dy
    return None


def duplicate(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    inner_hw = canvas.crop(object_HW)
    # The object stays; the window without it serves only to measure its shadow.
    _paste(canvas, edit, context, inner_hw, canvas.without_object(inner_hw))
    return object_HW


def move(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    inner_hw = canvas.crop(object_HW)
    _paste(canvas, edit, context, inner_hw, canvas.remove_object(inner_hw))
    return object_HW


def _paste(
    canvas: Canvas, edit: Edit, context: ImageContext, inner_hw: np.ndarray, clean_hw3: np.ndarray
) -> None:
    cutout = context.cutout(edit.targets[0], canvas.band, canvas.feather)
    canvas.paste_moved(cutout, edit.parameters["offset"], inner_hw, clean_hw3)


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray]:
    dx, dy = map(int, edit.parameters["offset"])
    return [shifted(masks[0], dx, dy)]


EXTRA = EditKind(plan_extra, duplicate, placed)
MISPLACED = EditKind(plan_misplaced, move, placed)
