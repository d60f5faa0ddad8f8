"""Apply an edit: turn a plan into pixels.

Outside the change mask a sample is byte-identical to its source. This is checked on every sample,
because some inpainters (diffusion models) alter every pixel.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.registry import edit_kind
from pipeline.errors import RecordError
from pipeline.models.inpaint.candidates import FillChoice
from pipeline.records import Edit, Sample
from pipeline.utils.hashing import digest_of

# Parameter of an applied edit: which inpainter filled each of its holes, in order, where there were
# candidates. An edit that has it is applied with the same choice again.
FILLS = "fills"


def apply(edit: Edit, context: ImageContext) -> Sample:
    """The sample that results from the edit. Deterministic: same edit and image, same pixels.

    The sample's edit also records which candidate filled its holes (`fills`).

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
        canvas = Canvas(image_HW3, part, context.proposals.masks_NHW, inpaint)
        object_HW |= edit_kind(part.kind).apply(canvas, part, context)
        change_HW |= canvas.finish(pixels_HW3)
        applied.append(_with_fills(part, inpaint.fills))
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
    parameters = {name: value for name, value in edit.parameters.items() if name != FILLS}
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


def _with_fills(edit: Edit, fills: list[dict[str, Any]]) -> Edit:
    return replace(edit, parameters={**edit.parameters, FILLS: fills}) if fills else edit


def assert_paste_back(sample: Sample, image_HW3: np.ndarray) -> None:
    """Raise RecordError unless the sample equals its source outside the change mask."""
    # Channels are combined by hand: `any` over an axis of three is slow.
    differs_HW3 = sample.pixels_HW3 != image_HW3
    differs_HW = differs_HW3[..., 0] | differs_HW3[..., 1] | differs_HW3[..., 2]
    differs_HW &= ~sample.change_HW
    if differs_HW.any():
        raise RecordError(
            f"{sample.edit.kind}: {int(differs_HW.sum())} pixels changed outside the change mask"
        )
