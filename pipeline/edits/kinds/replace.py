"""`wrong_type`: something else lies where an object belongs.

It is an object of another good image (a donor) or of the same image, in its own size, or whatever a
diffusion model paints for a prompt.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.donors import DonorRef
from pipeline.edits.placement import fits
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import MaskCrop, dilated, shifted
from pipeline.records import Edit, ObjectProposals

# Objects that are tried in the place of one target.
CANDIDATES = 24
# Share of the edits that a filler makes, where there is one; the paper's preset leaves it all.
PROMPTED = 0.5
# Share of its box from which a donor's object counts as the whole box, not as an ellipse.
FULL_BOX = 0.9


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    """Another object in the target's place, or a prompt with a probability."""
    share = 1.0 if settings.preset == "paper" else PROMPTED
    if rng.random() < (share if context.fill is not None else 0.0):
        target = int(rng.integers(len(context)))
        prompt = str(rng.choice(settings.prompts)) if settings.prompts else ""
        return (target,), {"prompt": prompt}, [context.crops[target].box_4]
    return _pasted(context, rng, strict=True) or _pasted(context, rng, strict=False)


def _pasted(context: ImageContext, rng: np.random.Generator, *, strict: bool) -> Found | None:
    """A pasted object in a target's place; `strict` asks for a clearly different colour."""
    donors = context.donors
    count = len(context) + len(donors.parts)
    for target in rng.permutation(context.movable()).tolist():
        for index in rng.permutation(count)[:CANDIDATES].tolist():
            source = index if index < len(context) else donors.parts[index - len(context)]
            found = context.once(
                partial(_in_place, context, target, source, strict),
                "pasted", target, source, strict,
            )  # fmt: skip
            if found is not None:
                targets, parameters, boxes = found
                return targets, dict(parameters), boxes
    return None


def _in_place(
    context: ImageContext, target: int, source: int | DonorRef, strict: bool
) -> Found | None:
    """An object in the target's place; None where it is no other type, or does not fit."""
    place = context.crops[target]
    if isinstance(source, int):
        crop, size_HW = context.crops[source], context.size_HW
        if source == target or place.meets(crop):
            return None
    else:
        crop, size_HW = context.donor_crop(source), context.donors.size_HW(source)
    if not _of_like_size(place, crop.area) or not crop.whole_in(size_HW):
        return None
    dx = int(place.centre[0]) - int(crop.centre[0])
    dy = int(place.centre[1]) - int(crop.centre[1])
    after = crop.moved(dx, dy)
    if not fits(context, target, after, context.background_of(target)):
        return None
    if isinstance(source, int):
        if (strict and not context.far_in_colour(target, source)) or context.alike(target, source):
            return None
        name: dict[str, object] = {"part": source, "box": list(crop.box_4), "area": crop.area}
    else:
        if not context.stands_out(target, source, in_colour=strict):
            return None
        name = {"donor": source.to_json()}
    return (target,), name | {"offset": [dx, dy]}, [place.box_4, after.box_4]


def _of_like_size(place: MaskCrop, area: int) -> bool:
    return max(place.area, area) <= SIMILAR_AREA * min(place.area, area)


def replace(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    """The filler's answer to the prompt, or the pasted object in the shade of the old one."""
    parameters, object_HW = edit.parameters, context.union(edit.targets)
    inner_hw = canvas.cut(object_HW)
    if "prompt" in parameters:
        hole_hw = dilated(inner_hw, canvas.dilation)
        canvas.fill(hole_hw, context.painted(edit, canvas.spread(hole_hw), "fill"))
        return object_HW
    from_donor = "donor" in parameters
    source = DonorRef.from_json(parameters["donor"]) if from_donor else parameters["part"]
    clean_hw3 = canvas.take_away(inner_hw)
    cutout = context.cutout(source, canvas.band, canvas.feather)
    canvas.lay(cutout.moved(*parameters["offset"]), inner_hw, clean_hw3)
    return object_HW


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray] | None:
    parameters = edit.parameters
    if "part" in parameters and proposals is not None:
        return [shifted(proposals.masks_NHW[parameters["part"]], *parameters["offset"])]
    source = parameters.get("donor") or parameters
    box_4 = source.get("box_4") or source.get("box")
    if box_4 is None:
        return None
    return [_estimated(box_4, source.get("area"), masks[0])]


def _estimated(box_4: Sequence[int], area: int | None, old_HW: np.ndarray) -> np.ndarray:
    """An object over the middle of the old one, of which only box and area are known.

    An ellipse, or the whole box where it fills that; rather too large than too small.
    """
    columns, rows = box_4[2] - box_4[0], box_4[3] - box_4[1]
    shape_hw = np.ones((rows, columns), np.bool_)
    if area is not None and area < FULL_BOX * rows * columns:
        y_h, x_w = ((2 * np.arange(side) + 1) / side - 1 for side in (rows, columns))
        shape_hw = y_h[:, None] ** 2 + x_w[None] ** 2 <= 1
    x, y = MaskCrop.of(old_HW).centre
    left, top = int(x) - columns // 2, int(y) - rows // 2
    return MaskCrop(shape_hw, left, top).full((old_HW.shape[0], old_HW.shape[1]))


WRONG_TYPE = EditKind(plan, replace, placed)
