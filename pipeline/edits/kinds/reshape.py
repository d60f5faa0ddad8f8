"""`wrong_orientation`: an object is turned or mirrored. `wrong_size`: it is larger or smaller.

An object that looks the same after a turn is not turned: nobody could see that it is wrong.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from pipeline.edits.appearance import turn_shows
from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.compositing.cutout import reshaped
from pipeline.edits.context import ImageContext
from pipeline.edits.placement import fits, shuffled
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import MaskCrop, main_axis, stretching, turning
from pipeline.records import Edit, ObjectProposals

# Turns are multiples of this many degrees, from LEAST_TURN on.
STEP = 15
LEAST_TURN = 30
# Share of the turns that mirror the object instead.
MIRRORED = 1 / 12
# An object becomes clearly smaller or clearly larger; in between a customer sees nothing.
SCALES = ((0.5, 0.75), (1.3, 1.7))
# Length to width from which an object is made longer or shorter, not larger: a cable, a rod.
SLENDER = 3.0
# Area in pixels below which an object made smaller is lost.
LEAST_PX = 40
# Share of the new outline that must lie on the object's background: a label stays on its bottle.
HELD = 0.99
# Objects that are looked at for a turn; more would cost a moment per object.
TARGETS = 6
# Turns or sizes that are tried per object.
TRIES = 12


def plan_orientation(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """An object turned (one time in twelve mirrored) about its middle.

    An object that lies anyhow in good images, or looks the same after the turn, is left alone.
    """
    for target in shuffled(context, rng)[:TARGETS]:
        if context.lies_anyhow(target):
            continue
        for _ in range(TRIES):
            mirror = bool(rng.random() < MIRRORED)
            turn = 0 if mirror else STEP * int(rng.integers(LEAST_TURN // STEP, 360 // STEP - 1))
            after = context.once(
                partial(_turned, context, target, turn, mirror), "turned", target, turn, mirror
            )
            if after is not None:
                parameters = {"turn": turn, "mirror": mirror}
                return (target,), parameters, [context.crops[target].box_4, after.box_4]
    return None


def _turned(context: ImageContext, target: int, turn: int, mirror: bool) -> MaskCrop | None:
    """The outline after a turn; None where it does not fit, or looks as it did."""
    matrix_22 = turning(turn, mirror)
    after = context.crops[target].warped(matrix_22)
    if not fits(context, target, after, context.background_of(target), HELD):
        return None
    return after if turn_shows(context.own_thumbnail(target), matrix_22) else None


def plan_size(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    """An object grown or shrunk about its middle; a slender one along its length."""
    for target in shuffled(context, rng):
        crop = context.crops[target]
        background_HW = context.background_of(target)
        axis, slenderness = main_axis(crop.mask_hw)
        along = axis if slenderness >= SLENDER else None
        for _ in range(TRIES):
            low, high = SCALES[int(rng.integers(2))]
            scale = round(float(rng.uniform(low, high)), 3)
            if scale < 1 and crop.area * scale**2 < LEAST_PX:
                continue
            after = crop.warped(stretching(scale, along))
            if fits(context, target, after, background_HW, HELD):
                parameters = {"scale": scale, "along": along}
                return (target,), parameters, [crop.box_4, after.box_4]
    return None


def reshape(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    inner_hw = canvas.cut(object_HW)
    clean_hw3 = canvas.take_away(inner_hw)
    cutout = context.cutout(edit.targets[0], canvas.band, canvas.feather)
    # Interpolation smooths sensor noise away; with a generator it is restored.
    rng = canvas.rng if canvas.restores_noise else None
    after = reshaped(cutout, matrix_of(edit.parameters), canvas.sensor_noise(), rng)
    canvas.lay(after, inner_hw, clean_hw3)
    return object_HW


def matrix_of(parameters: Mapping[str, Any]) -> np.ndarray:
    """The 2 x 2 map that the edit applies to its object."""
    if "scale" in parameters:
        return stretching(parameters["scale"], parameters["along"])
    return turning(parameters["turn"], parameters["mirror"])


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray] | None:
    if "scale" not in edit.parameters and "turn" not in edit.parameters:
        return None  # versions of the first release did not record them
    height, width = masks[0].shape
    return [MaskCrop.of(masks[0]).warped(matrix_of(edit.parameters)).full((height, width))]


WRONG_ORIENTATION = EditKind(plan_orientation, reshape, placed)
WRONG_SIZE = EditKind(plan_size, reshape, placed)
