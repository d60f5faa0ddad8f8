"""Apply an edit: turn a plan into pixels.

Outside the change mask a sample is byte-identical to its source. This is checked on every sample,
because some inpainters (diffusion models) alter every pixel.
"""

import numpy as np

from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.registry import edit_kind
from pipeline.errors import RecordError
from pipeline.records import Edit, Sample


def apply(edit: Edit, context: ImageContext) -> Sample:
    """The sample that results from the edit. Deterministic: same edit and image, same pixels.

    RecordError when the edit needs a donor or a filler that the context does not have, or for an
    unknown kind.
    """
    image_HW3 = context.image_HW3
    pixels_HW3 = image_HW3.copy()
    change_HW = np.zeros(image_HW3.shape[:2], np.bool_)
    object_HW = change_HW.copy()
    # One edit, or for a composite kind two whose regions share no pixel. Each starts from the
    # unedited image and writes only its own change mask into `pixels_HW3`.
    for part in edit.parts:
        canvas = Canvas(image_HW3, part, context.proposals.masks_NHW, context.inpaint)
        object_HW |= edit_kind(part.kind).apply(canvas, part, context)
        change_HW |= canvas.finish(pixels_HW3)
    sample = Sample(edit, pixels_HW3, change_HW, object_HW)
    assert_paste_back(sample, image_HW3)
    return sample


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
