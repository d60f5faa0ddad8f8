"""`wrong_orientation`: an object is rotated or mirrored. `wrong_size`: it is scaled.

An object that looks the same after a rotation is not used: the anomaly would be invisible.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.edits.appearance import turn_is_visible
from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.compositing.cutout import reshaped
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import bare, turn_means_something, unusual_size
from pipeline.edits.placement import fits, shuffled
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import MaskCrop, main_axis, rotation, scaling
from pipeline.records import Edit, ObjectProposals

# Rotations are multiples of STEP degrees, from LEAST_TURN up.
STEP = 15
LEAST_TURN = 30
# Share of the edits that mirror the object instead of rotating it.
MIRRORED = 1 / 12
# Ranges of the scale: clearly smaller or clearly larger. Values in between are hardly visible, and
# beyond them the photograph does not hold the details.
SCALES = ((0.5, 0.75), (1.3, 1.5))
# Aspect ratio from which an object is scaled along its length only: a cable, a rod.
SLENDER = 3.0
# Area in pixels below which a shrunk object would no longer be recognisable.
LEAST_PX = 40
# Share of the new outline that must lie on the object's background: a label stays on its bottle.
HELD = 0.99
# Objects that are tried for a rotation; each costs comparisons of appearance.
TARGETS = 6
# Rotations or scales that are tried per object.
TRIES = 12


def plan_orientation(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """An object rotated (one time in twelve mirrored) about its centre.

    Objects whose orientation varies in normal images, or that look the same after the rotation,
    are skipped.
    """
    for target in _loose(context, shuffled(context, rng))[:TARGETS]:
        if not turn_means_something(context, target) or context.orientation_varies(target):
            continue
        for _ in range(TRIES):
            mirror = bool(rng.random() < MIRRORED)
            turn = 0 if mirror else STEP * int(rng.integers(LEAST_TURN // STEP, 360 // STEP - 1))
            after = context.cached(
                partial(_turned, context, target, turn, mirror), "turned", target, turn, mirror
            )
            if after is not None:
                parameters = {"turn": turn, "mirror": mirror}
                return (target,), parameters, [context.crops[target].box_4, after.box_4]
    return None


def _turned(context: ImageContext, target: int, turn: int, mirror: bool) -> MaskCrop | None:
    """The outline after a rotation; None where it does not fit or the rotation is invisible."""
    matrix_22 = rotation(turn, mirror)
    after = context.crops[target].warped(matrix_22)
    if not fits(context, target, after, context.background_of(target), HELD):
        return None
    return after if turn_is_visible(context.own_thumbnail(target), matrix_22) else None


def _loose(context: ImageContext, targets: list[int]) -> list[int]:
    """Targets that are no part of a mounted product: a leg turned about its middle comes off it."""
    if context.background is None:
        return targets
    on_product_N = context.cached(lambda: ~context.proposals.beside_N, "on product")
    return [one for one in targets if context.is_product(one) or not on_product_N[one]]


def plan_size(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """An object scaled about its centre; a slender one along its length."""
    for target in _loose(context, shuffled(context, rng)):
        crop = context.crops[target]
        background_HW = context.background_of(target)
        axis, slenderness = context.cached(partial(main_axis, crop.mask_hw), "axis", target)
        along = axis if slenderness >= SLENDER else None
        for _ in range(TRIES):
            # A mounted product is only shrunk: enlarged, what its mask lacks over a hole is seen.
            scales = SCALES if context.background is None else SCALES[:1]
            low, high = scales[int(rng.integers(len(scales)))]
            scale = round(float(rng.uniform(low, high)), 3)
            if scale < 1 and crop.area * scale**2 < LEAST_PX:
                continue
            after = crop.warped(scaling(scale, along))
            # Numbers first, colours last: all must hold.
            if (
                unusual_size(context, target, after.area)
                and fits(context, target, after, background_HW, HELD)
                and bare(context, target, after)
            ):
                parameters = {"scale": scale, "along": along}
                return (target,), parameters, [crop.box_4, after.box_4]
    return None


def reshape(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    inner_hw = canvas.crop(object_HW)
    clean_hw3 = canvas.remove_object(inner_hw)
    cutout = context.cutout(edit.targets[0], canvas.band, canvas.feather)
    # Interpolation smooths sensor noise away; with a random generator it is restored.
    rng = canvas.rng if canvas.restores_noise else None
    after = reshaped(cutout, matrix_of(edit.parameters), canvas.sensor_noise(), rng)
    canvas.paste_new(after, inner_hw, clean_hw3)
    return object_HW


def matrix_of(parameters: Mapping[str, Any]) -> np.ndarray:
    """The 2 x 2 linear map that the edit applies to its object."""
    if "scale" in parameters:
        return scaling(parameters["scale"], parameters["along"])
    return rotation(parameters["turn"], parameters["mirror"])


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray] | None:
    # Dataset versions of the first release did not record either parameter.
    if "scale" not in edit.parameters and "turn" not in edit.parameters:
        return None
    height, width = masks[0].shape
    return [MaskCrop.of(masks[0]).warped(matrix_of(edit.parameters)).full((height, width))]


WRONG_ORIENTATION = EditKind(plan_orientation, reshape, placed)
WRONG_SIZE = EditKind(plan_size, reshape, placed)
