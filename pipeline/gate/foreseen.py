"""What the plan alone shows to be rejected: no pixels are made for it.

Where pieces touch two parts and nobody can tell whose they are, a removal would leave some of its
part or take some of its neighbour. And duplicates are foreseen: whether two sizes or two places of
one part are one anomaly follows from its outlines before and after, and from how much its colour
differs from what surrounds it.

Shapes: H, W image; h, w window around both edits; 3 colour (CIELAB).
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pipeline.edits.background_colour import lab_of
from pipeline.edits.context import ImageContext
from pipeline.edits.registry import placed_masks
from pipeline.gate.checks import DUPLICATE
from pipeline.gate.scores import OTHER_LOOK
from pipeline.imaging.masks import dilated, enclosing_box, window
from pipeline.kinds import kind_of
from pipeline.records import Edit

# Reason to reject a plan; part of the dataset format, explained in docs/edits.md.
UNCLEAR_CONTACT = "unclear_contact"
# Share of the colour distance of another look below which two edits surely look the same. What the
# part shows inside its outline adds to the distance and is not looked at. Measured on 143 pairs of
# two categories: 62 of 63 duplicates are foreseen, and nothing else.
SURELY = 0.8
# Pixels around a part that are its soft edge, and where its surroundings end.
EDGE, AROUND = 3, 10
# Share of the smaller of two whole parts from which one mask contains the other, and share of the
# larger one that is then more than its outline.
CONTAINS, MORE = 0.7, 0.25


def foreseen(context: ImageContext, edit: Edit, accepted: Sequence[Edit], most_iou: float) -> str:
    """Why the gate would surely reject a planned edit, as a rejection reason; empty when only the
    pixels can tell. `accepted` and `most_iou` as in `foreseen_duplicate`."""
    if any(_is_unclear(context, part) for part in edit.parts):
        return UNCLEAR_CONTACT
    return DUPLICATE if foreseen_duplicate(context, edit, accepted, most_iou) else ""


def _is_unclear(context: ImageContext, edit: Edit) -> bool:
    """True for an edit that removes a part of which nobody can tell where it ends."""
    row = kind_of(edit.kind)
    if row.control or not (row.inpaints or row.uncovers or row.exchanges):
        return False
    return any(
        (target in context.attached and context.attached[target].undecided)
        or context.cached(partial(_is_several, context, target), "several", target)
        for target in edit.targets
    )


def _is_several(context: ImageContext, target: int) -> bool:
    """True for a whole part whose mask holds another whole part, and more than its outline: two
    that touch were taken for one."""
    # The product itself does hold whole parts.
    if not context.is_whole(target):
        return False
    mask_HW, area = context.proposals.masks_NHW[target], int(context.areas_N[target])
    for other in np.flatnonzero(context.proposals.whole_N).tolist():
        smaller = int(context.areas_N[other])
        if other == target or not MORE * area <= smaller <= (1 - MORE) * area:
            continue
        shared = np.count_nonzero(mask_HW & context.proposals.masks_NHW[other])
        if shared >= CONTAINS * smaller:
            return True
    return False


def foreseen_duplicate(
    context: ImageContext, edit: Edit, accepted: Sequence[Edit], most_iou: float
) -> bool:
    """True when a planned edit surely repeats one of the accepted edits of the same image.

    `most_iou` is the gate's limit `max_duplicate_iou`. False where only the pixels can tell.
    """
    return _moves_or_scales(edit) and any(
        _repeats(context, edit, other, most_iou)
        for other in accepted
        if (other.kind, other.targets) == (edit.kind, edit.targets) and _moves_or_scales(other)
    )


def _moves_or_scales(edit: Edit) -> bool:
    """True for an edit of which the outlines tell everything: one object of this image is moved,
    copied or scaled."""
    row = kind_of(edit.kind)
    moves = "offset" in edit.parameters and (row.adds or row.relocates)
    return len(edit.targets) == 1 and (moves or "scale" in edit.parameters)


def _repeats(context: ImageContext, edit: Edit, other: Edit, most_iou: float) -> bool:
    """True when the change masks overlap by more than the limit and show nearly the same there."""
    (target,), reach = edit.targets, int(edit.parameters["dilation"])
    regions = [one.parameters["region"] for one in (edit, other)]
    x0, y0, x1, y1 = enclosing_box(regions, 0, context.size_HW)
    before_hw = context.proposals.masks_NHW[target, y0:y1, x0:x1]
    one_hw, other_hw = (
        np.logical_or.reduce(placed_masks(same, [before_hw]) or [before_hw])
        for same in (edit, other)
    )
    # The old place is filled, unless the object stays there.
    hole_hw = dilated(before_hw, reach) & (not kind_of(edit.kind).adds)
    first_hw, second_hw = (dilated(mask_hw, reach) | hole_hw for mask_hw in (one_hw, other_hw))
    shared_hw = first_hw & second_hw
    shared = np.count_nonzero(shared_hw)
    if shared <= most_iou * np.count_nonzero(first_hw | second_hw):
        return False
    # Where one shows the object and the other one what surrounds it.
    differs = np.count_nonzero((one_hw ^ other_hw) & shared_hw) / shared
    contrast = context.cached(lambda: _contrast(context, target), "contrast", target)
    return bool(differs * contrast < SURELY * OTHER_LOOK)


def _contrast(context: ImageContext, target: int) -> float:
    """The CIELAB distance of an object from what surrounds it."""
    near = window(context.proposals.masks_NHW[target], AROUND + 1)
    mask_hw = context.proposals.masks_NHW[target][near]
    ring_hw = dilated(mask_hw, AROUND) & ~dilated(mask_hw, EDGE)
    if not ring_hw.any():
        return 0.0
    lab_hw3 = lab_of(context.image_HW3[near])
    return float(np.linalg.norm(lab_hw3[mask_hw].mean(0) - lab_hw3[ring_hw].mean(0)))
