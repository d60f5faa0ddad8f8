"""`wrong_type`: an object is replaced by something else.

The replacement is an object of another normal image (a donor) or of the same image, in its own
size, or what a diffusion model generates for a prompt. Where the category has no other type, as a
product of one part, it is another category's product.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from pipeline.edits.appearance import SIMILAR_AREA
from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.compositing.light import Light
from pipeline.edits.context import ImageContext
from pipeline.edits.donor_light import light_for
from pipeline.edits.donors import DonorRef
from pipeline.edits.part_identity import bare, can_be_cut_out, differ, worth_editing
from pipeline.edits.placement import fits
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import MaskCrop, dilated, shifted
from pipeline.records import WHOLE_PART, WHOLE_PRODUCT, Edit, ObjectProposals

# Replacements that are tried for one target.
CANDIDATES = 24
# Share of the edits that use a filler when there is one; with the preset paper it is all of them.
PROMPTED = 0.5
# Share of its box from which a donor object is estimated as the whole box instead of an ellipse.
FULL_BOX = 0.9


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    """A prompt with some probability if there is a filler, else another object of similar size.

    Another category's product comes last: of two parts that were mistaken for each other, an
    inspection learns more.
    """
    # The random number is drawn in any case, so that plans do not depend on the filler.
    share = 1.0 if settings.preset == "paper" else PROMPTED
    if rng.random() < (share if context.fill is not None else 0.0):
        choice = worth_editing(context)
        if not choice:
            return None
        target = choice[int(rng.integers(len(choice)))]
        prompt = str(rng.choice(settings.prompts)) if settings.prompts else ""
        return (target,), {"prompt": prompt}, [context.crops[target].box_4]
    return (
        _pasted(context, rng, strict=True)
        or _pasted(context, rng, strict=False)
        or _other_product(context, rng)
    )


def _pasted(context: ImageContext, rng: np.random.Generator, *, strict: bool) -> Found | None:
    """Another object in a target's place; `strict` requires a clearly different colour."""
    # Objects of this image and of all donors form one pool, addressed by one index.
    pool = [*range(len(context)), *context.donors.objects]
    for target in rng.permutation(worth_editing(context, movable=True, uncovers=True)).tolist():
        for index in rng.permutation(len(pool))[:CANDIDATES].tolist():
            found = context.cached(
                partial(_in_place, context, target, pool[index], strict),
                "pasted", target, index, strict,
            )  # fmt: skip
            if found is not None:
                # The cached answer is shared: copy what the caller will add to.
                targets, parameters, boxes = found
                return targets, dict(parameters), boxes
    return None


def _other_product(context: ImageContext, rng: np.random.Generator) -> Found | None:
    """Another category's product in a target's place."""
    sources = context.donors.other_products
    for target in rng.permutation(worth_editing(context, movable=True, uncovers=True)).tolist():
        for index in rng.permutation(len(sources))[:CANDIDATES].tolist():
            found = context.cached(
                partial(_in_place, context, target, sources[index], False),
                "pasted", target, sources[index], False,
            )  # fmt: skip
            if found is not None:
                targets, parameters, boxes = found
                return targets, dict(parameters), boxes
    return None


def _in_place(
    context: ImageContext, target: int, source: int | DonorRef, strict: bool
) -> Found | None:
    """An object in the target's place; None where it does not fit or is not of another type."""
    # Whether it fits does not depend on how strictly colours are compared.
    after = context.cached(
        partial(_place_of, context, target, source), "place in exchange", target, source
    )
    if after is None:
        return None
    place = context.crops[target]
    if isinstance(source, int):
        crop = context.crops[source]
        if (strict and not context.differ_in_colour(target, source)) or context.same_object_kind(
            target, source
        ):
            return None
        # Box and area are recorded, so that the outline can be estimated without the proposals.
        name: dict[str, object] = {"part": source, "box": list(crop.box_4), "area": crop.area}
    else:
        crop = context.donor_crop(source)
        if not context.differs_from_donor(target, source, in_colour=strict):
            return None
        name = {"donor": source.to_json()}
        light = light_for(context, source)
        if light is not None:
            name["light"] = light.to_json()
    offset = [after.x - crop.x, after.y - crop.y]
    return (target,), name | {"offset": offset}, [place.box_4, after.box_4]


def _place_of(context: ImageContext, target: int, source: int | DonorRef) -> MaskCrop | None:
    """The outline of a whole object of another kind in the target's place; None where it does not
    fit."""
    place = context.crops[target]
    # Cheap tests first: of most candidates, number and box tell.
    if isinstance(source, int):
        known, number = context.proposals, source
        if source == target or place.overlaps(context.crops[source]):
            return None
    else:
        known, number = context.donors.proposals_of(source.image), source.proposal
        # Its pieces are only looked for where the mask alone is not too large for the place.
        if source.area > SIMILAR_AREA * place.area:
            return None
    # Half a part is no other type: it is broken.
    if known.parent_N[number] not in (WHOLE_PART, WHOLE_PRODUCT):
        return None
    if not differ(context, target, source):
        return None
    if isinstance(source, int):
        crop, size_HW = context.crops[source], context.size_HW
    else:
        crop, size_HW = context.donor_crop(source), context.donors.size_HW(source)
    if not _of_like_size(place, crop.area) or not crop.inside_frame(size_HW):
        return None
    # Centre on centre, by whole pixels, so that the pasted object keeps its sensor noise.
    dx = int(place.centre[0]) - int(crop.centre[0])
    dy = int(place.centre[1]) - int(crop.centre[1])
    after = crop.moved(dx, dy)
    if not fits(context, target, after, context.background_of(target)):
        return None
    if not bare(context, target, after) or not can_be_cut_out(context, source):
        return None
    return after


def _of_like_size(place: MaskCrop, area: int) -> bool:
    return max(place.area, area) <= SIMILAR_AREA * min(place.area, area)


def replace(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    """Fill by prompt, or paste the other object with the shadow of the old one."""
    parameters, object_HW = edit.parameters, context.union(edit.targets)
    inner_hw = canvas.crop(object_HW)
    if "prompt" in parameters:
        hole_hw = dilated(inner_hw, canvas.dilation)
        canvas.fill(hole_hw, context.filled_by_prompt(edit, canvas.to_full(hole_hw), "fill"))
        return object_HW
    from_donor = "donor" in parameters
    source = DonorRef.from_json(parameters["donor"]) if from_donor else parameters["part"]
    clean_hw3 = canvas.remove_object(inner_hw)
    cutout = context.cutout(source, canvas.band, canvas.feather)
    # None is named where nothing tells, and in versions of older releases.
    if "light" in parameters:
        cutout = cutout.under(Light.from_json(parameters["light"]))
    canvas.paste_new(cutout.moved(*parameters["offset"]), inner_hw, clean_hw3)
    return object_HW


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray] | None:
    # Best knowledge first: the proposal itself, then its recorded box and area.
    parameters = edit.parameters
    if "part" in parameters and proposals is not None:
        return [shifted(proposals.masks_NHW[parameters["part"]], *parameters["offset"])]
    source = parameters.get("donor") or parameters
    box_4 = source.get("box_4") or source.get("box")
    if box_4 is None:
        return None
    return [_estimated(box_4, source.get("area"), masks[0])]


def _estimated(box_4: Sequence[int], area: int | None, old_HW: np.ndarray) -> np.ndarray:
    """The outline of an object of which only box and area are known, centred on the old one.

    An ellipse, or the whole box if the object fills it; rather too large than too small, so that no
    pasted pixel is taken for inpainted background.
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
