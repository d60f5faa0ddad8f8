"""Apply an edit: turn a plan into pixels.

Outside the change mask a sample is byte-identical to its source. This is checked on every sample,
because some inpainters (diffusion models) alter every pixel.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.fill_sources import not_background
from pipeline.edits.left_behind import left_behind
from pipeline.edits.registry import edit_kind
from pipeline.edits.things import near_of, reach_of
from pipeline.errors import RecordError
from pipeline.imaging.region_values import copy_region
from pipeline.models.inpaint.candidates import FillChoice
from pipeline.records import Edit, Sample, bounding_box
from pipeline.utils.hashing import digest_of

# Parameter of an applied edit: which inpainter filled each of its holes, in order, where there were
# candidates. An edit that has it is applied with the same choice again.
FILLS = "fills"
# Parameter of an applied edit: what of a removed object stays beside its hole, as a share of the
# hole; only the context knows which other parts may stay, and the gate reads it.
LEFT_BEHIND = "left_behind"


def apply(edit: Edit, context: ImageContext) -> Sample:
    """The sample that results from the edit. Deterministic: same edit and image, same pixels.

    The sample's edit also records which candidate filled its holes (`fills`), and what stayed
    behind (`left_behind`).

    RecordError when the edit needs a donor or a filler that the context does not have, or for an
    unknown kind.
    """
    image_HW3 = context.image_HW3
    pixels_HW3 = image_HW3.copy()
    change_HW = np.zeros(image_HW3.shape[:2], np.bool_)
    object_HW = change_HW.copy()
    # One edit, or for a composite kind two whose regions share no pixel. Each starts from the
    # unedited image and writes only its own change mask into `pixels_HW3`.
    applied = []
    for part in edit.parts:
        inpaint = _Inpaint(context, part)
        goes_HW, stays_HW = context.light_of(part.targets), context.stays_beside(part.targets)
        # A control puts all back; elsewhere stubs would look like shadows of nothing.
        light_HW = context.light_of(part.targets, remnants=part.is_control)
        beside = goes_HW, light_HW, stays_HW
        canvas = Canvas(image_HW3, part, context.proposals.masks_NHW, inpaint, *beside)
        object_HW |= edit_kind(part.kind).apply(canvas, part, context)
        part_change_HW = canvas.finish(pixels_HW3)
        change_HW |= part_change_HW
        left = _left_behind(part, canvas.hole_HW(), part_change_HW, pixels_HW3, context)
        applied.append(_recorded(part, inpaint.fills, left))
    if "edits" in edit.parameters:
        both = {"edits": [part.to_json() for part in applied]}
        edit = replace(edit, parameters={**edit.parameters, **both})
    else:
        edit = applied[0]
    sample = Sample(edit, pixels_HW3, change_HW, object_HW)
    assert_paste_back(sample, image_HW3)
    return sample


def as_planned(edit: Edit) -> Edit:
    """The edit of a sample without what applying it added: as `plan` returned it."""
    parameters = {
        name: value for name, value in edit.parameters.items() if name not in (FILLS, LEFT_BEHIND)
    }
    if "edits" in parameters:
        parameters["edits"] = [as_planned(part).to_json() for part in edit.parts]
    return replace(edit, parameters=parameters)


def edit_key(edit: Edit) -> str:
    """What identifies a planned edit, 16 hexadecimal digits; the same before and after applying."""
    return digest_of(as_planned(edit).to_json())[:16]


class _Inpaint:
    """The context's inpainter during one edit: repeats the edit's recorded choices, or records."""

    def __init__(self, context: ImageContext, edit: Edit) -> None:
        self._memo = context.inpaint
        self._recorded = [FillChoice.from_json(fill) for fill in edit.parameters.get(FILLS, ())]
        # One per call, in order: an applied edit asks for the same holes in the same order.
        self.fills: list[dict[str, Any]] = []

    def __call__(self, hole_HW: np.ndarray) -> np.ndarray:
        number = len(self.fills)
        recorded = self._recorded[number] if number < len(self._recorded) else None
        filled_HW3, choice = self._memo(hole_HW, recorded)
        if choice is not None:
            self.fills.append(choice.to_json())
        return filled_HW3

    def recent(
        self, make: Callable[[], tuple[np.ndarray, ...]], *key: Any
    ) -> tuple[np.ndarray, ...]:
        """See `HoleFill`; another choice of the inpainter is another key."""
        chosen = self.fills[-1]["inpainter"] if self.fills else None
        return self._memo.recent(make, chosen, *key)


def _recorded(edit: Edit, fills: list[dict[str, Any]], left: float | None) -> Edit:
    added: dict[str, Any] = {FILLS: fills} if fills else {}
    if left is not None:
        added[LEFT_BEHIND] = left
    return replace(edit, parameters={**edit.parameters, **added}) if added else edit


def _left_behind(
    edit: Edit,
    hole_HW: np.ndarray,
    change_HW: np.ndarray,
    pixels_HW3: np.ndarray,
    context: ImageContext,
) -> float | None:
    """What the removed objects left beside their hole; None where none was removed."""
    if edit.is_control or not edit.targets or not hole_HW.any():
        return None
    proposals = context.proposals
    others_N = proposals.whole_N.copy()
    others_N[list(edit.targets)] = False
    # What was pasted beside the hole is no remnant.
    other_HW = context.union(others_N) | (change_HW & ~hole_HW)
    # Farther away nobody looks.
    box_4 = bounding_box(hole_HW)
    near, unlike_HW = near_of(box_4, reach_of(hole_HW)), np.zeros_like(hole_HW)
    others = [proposals.masks_NHW[index] for index in np.flatnonzero(others_N)]
    unlike_HW[near] = not_background(hole_HW, box_4, proposals.foreground_HW, others, near)
    images = context.flat_HW3, context.flattened(pixels_HW3, near)
    object_HW = context.union(edit.targets)
    spared_HW = context.stays_beside(edit.targets)
    return round(left_behind(images, object_HW, hole_HW, other_HW, unlike_HW, spared_HW), 5)


def assert_paste_back(sample: Sample, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the sample equals its source outside the change mask."""
    outside_HW = ~sample.change_HW
    differs_HW3 = np.zeros_like(image_HW3)
    copy_region(sample.pixels_HW3 ^ image_HW3, outside_HW, differs_HW3)
    if differs_HW3.max(initial=0):
        raise RecordError(
            f"{sample.edit.kind}: {int(differs_HW3.any(2).sum())} pixels changed outside the "
            "change mask"
        )
