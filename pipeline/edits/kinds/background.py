"""`control_background`: background without any object is inpainted, and nothing changes in meaning.

With `ground_prompts` a diffusion model replaces everything around the product instead.
"""

import numpy as np

from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.placement import PLACES
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import dilated, shifted
from pipeline.records import Edit

# A place is left out when a share of it between this and the rest lies on the product: an inpainter
# fills it with product or with what lies beside it, and either is visible (decision 0030).
STRADDLES = 0.05


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    if context.fill is not None and settings.ground_prompts:
        return _surroundings(context, rng, settings.ground_prompts)
    return _bare_place(context, rng)


def _bare_place(context: ImageContext, rng: np.random.Generator) -> Found | None:
    """Background without any object, in the outline of a real one.

    Controls then have the same sizes and shapes as anomalies, and a detector cannot separate them
    by these.
    """
    objects_HW = context.objects_HW()
    product_HW = objects_HW | context.proposals.foreground_HW
    height, width = context.size_HW
    for shape in rng.permutation(len(context)).tolist():
        crop = context.crops[shape]
        rows, columns = crop.mask_hw.shape
        # Keep some distance from objects.
        margin = max(2, min(rows, columns) // 8)
        if rows + 2 > height or columns + 2 > width:
            continue
        for number in range(PLACES):
            # Try places beside the product first: on it there may be objects without a proposal.
            taken_HW = product_HW if number < PLACES // 2 else objects_HW
            x = int(rng.integers(1, width - columns))
            y = int(rng.integers(1, height - rows))
            near = np.s_[max(0, y - margin) : y + rows + margin,
                         max(0, x - margin) : x + columns + margin]  # fmt: skip
            if taken_HW[near].any():
                continue
            offset = (x - crop.x, y - crop.y)
            place = crop.moved(*offset)
            on_product = place.share_on(context.proposals.foreground_HW)
            if not STRADDLES < on_product < 1 - STRADDLES:
                return (), {"shape": shape, "offset": list(offset)}, [place.box_4]
    return None


def _surroundings(
    context: ImageContext, rng: np.random.Generator, prompts: tuple[str, ...]
) -> Found | None:
    """Everything around the product; None when the product fills the image."""
    if context.proposals.foreground_HW.all():
        return None
    height, width = context.size_HW
    return (), {"prompt": str(rng.choice(prompts))}, [(0, 0, width, height)]


def inpaint_again(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    parameters, masks_NHW = edit.parameters, context.proposals.masks_NHW
    if "prompt" in parameters:
        # Keep the product with all its objects, and a margin.
        product_HW = context.proposals.foreground_HW | masks_NHW.any(0)
        keep_HW = dilated(product_HW, canvas.dilation)
        canvas.fill(canvas.crop(~keep_HW), context.filled_by_prompt(edit, keep_HW, "replace"))
        return ~keep_HW
    dx, dy = parameters["offset"]
    shape_HW = shifted(masks_NHW[parameters["shape"]], dx, dy)
    canvas.remove_object(canvas.crop(shape_HW))
    return shape_HW


CONTROL_BACKGROUND = EditKind(plan, inpaint_again)
