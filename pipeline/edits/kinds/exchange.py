"""`swapped`: two objects trade places. `wrong_order`: three to five objects do, in a ring."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import differ, exchange_offsets, unusual_place, worth_editing
from pipeline.edits.placement import is_free
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import Box, MaskCrop, shifted
from pipeline.records import Edit, ObjectProposals

# Random rings of objects that are tried before `wrong_order` is abandoned.
RINGS = 32
# Largest number of objects in a ring.
LONGEST_RING = 5


def plan_swapped(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """Two disjoint objects of similar area and different appearance, each centred on the other."""
    pairs = [
        pair
        for pair in combinations(worth_editing(context, movable=True, uncovers=True), 2)
        if differ(context, *pair)
    ]
    order = [pairs[index] for index in rng.permutation(len(pairs))]
    # Pairs of clearly different colour first; the sort is stable, so each group stays shuffled.
    order.sort(key=lambda pair: not context.differ_in_colour(*pair))
    for first, second in order:
        offsets = _offsets(context, (first, second))
        if offsets is not None:
            boxes = _boxes_after(context, (first, second), offsets)
            before = [context.crops[index].box_4 for index in (first, second)]
            parameters = {"offset": offsets[0], "boxes": _lists(before)}
            return (first, second), parameters, before + boxes
    return None


def plan_wrong_order(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """Three to five disjoint objects of similar area and different appearance; each takes the place
    of the next.

    All differ, because a ring through two of one kind would look like a plain swap.
    """
    movable = worth_editing(context, movable=True, uncovers=True)
    for attempt in range(RINGS if len(movable) >= 3 else 0):
        # The first half of the attempts requires clearly different colours.
        strict = attempt < RINGS // 2
        count = int(rng.integers(3, min(LONGEST_RING, len(movable)) + 1))
        ring = tuple(int(index) for index in rng.permutation(movable)[:count])
        if strict and not all(context.differ_in_colour(*pair) for pair in combinations(ring, 2)):
            continue
        if not all(differ(context, *pair) for pair in combinations(ring, 2)):
            continue
        offsets = _offsets(context, ring)
        if offsets is not None:
            before = [context.crops[index].box_4 for index in ring]
            parameters = {"offsets": offsets, "boxes": _lists(before)}
            return ring, parameters, before + _boxes_after(context, ring, offsets)
    return None


def _offsets(context: ImageContext, ring: tuple[int, ...]) -> list[list[int]] | None:
    """Offsets (x, y) that centre each object of the ring on the next; None if they do not fit."""
    areas = context.areas_N[list(ring)]
    crops = [context.crops[index] for index in ring]
    if areas.max() > SIMILAR_AREA * areas.min() or _overlapping(crops):
        return None
    # Whole pixels, so that pasted objects keep their sensor noise.
    middles = [(int(crop.centre[0]), int(crop.centre[1])) for crop in crops]
    offsets = [
        [there[0] - here[0], there[1] - here[1]]
        for here, there in zip(middles, middles[1:] + middles[:1], strict=True)
    ]
    after = [crop.moved(*offset) for crop, offset in zip(crops, offsets, strict=True)]
    for crop in after:
        if not crop.inside_frame(context.size_HW) or not is_free(context, crop, ring):
            return None
    # Among parts that may lie anywhere, nothing is wrong when two trade places.
    if not any(
        unusual_place(context, index, crop) for index, crop in zip(ring, after, strict=True)
    ):
        return None
    # Comparing appearance is the most expensive test and comes late.
    if any(context.same_object_kind(one, other) for one, other in combinations(ring, 2)):
        return None
    return None if _overlapping(after) else offsets


def _overlapping(crops: list[MaskCrop]) -> bool:
    """True when any two outlines share a pixel."""
    return any(one.overlaps(other) for one, other in combinations(crops, 2))


def _boxes_after(
    context: ImageContext, ring: tuple[int, ...], offsets: list[list[int]]
) -> list[Box]:
    return [
        context.crops[index].moved(*offset).box_4
        for index, offset in zip(ring, offsets, strict=True)
    ]


def _lists(boxes: list[Box]) -> list[list[int]]:
    return [list(box) for box in boxes]


def exchange(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    """Move every object to the place of the next one, the last to that of the first."""
    inner = [canvas.crop(context.proposals.masks_NHW[target]) for target in edit.targets]
    # All objects are removed in one hole: the inpainter must not copy one into another's place.
    clean_hw3 = canvas.remove_object(np.logical_or.reduce(inner))
    # The shadow of each object is measured where no other removed object was.
    for k, offset in enumerate(exchange_offsets(edit)):
        beside_hw = np.logical_or.reduce(inner[:k] + inner[k + 1 :])
        cutout = context.cutout(edit.targets[k], canvas.band, canvas.feather)
        canvas.paste_moved(cutout, offset, inner[k], clean_hw3, beside_hw)
    return context.union(edit.targets)


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray]:
    offsets = exchange_offsets(edit)
    return [shifted(mask_HW, *offset) for mask_HW, offset in zip(masks, offsets, strict=True)]


SWAPPED = EditKind(plan_swapped, exchange, placed)
WRONG_ORDER = EditKind(plan_wrong_order, exchange, placed)
