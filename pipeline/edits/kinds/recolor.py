"""`wrong_colour`: an object takes the colour of another object, else a hue far from its own."""

from collections.abc import Sequence

import numpy as np

from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import worth_editing
from pipeline.edits.settings import EditSettings
from pipeline.records import Edit, ObjectProposals

# Rotations of the hue in degrees, for images where no object has another colour to copy. Nothing
# within 60 degrees of the own hue, which would be a faint change.
HUES = tuple(range(60, 301, 30))


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    # A colour that occurs in the image is more plausible than an arbitrary hue.
    choice = worth_editing(context, outlined=True)
    if context.background is not None:
        # Recoloured as a whole, a mounted product has a pale rim where it ends over a hole.
        choice = [index for index in choice if not context.is_product(index)]
    if not choice:
        return None
    target = choice[int(rng.integers(len(choice)))]
    for other in rng.permutation(len(context)).tolist():
        if context.differ_in_colour(target, other):
            lab = [round(float(value), 2) for value in context.colour(other)]
            return (target,), {"lab": lab, "like": other}, [context.crops[target].box_4]
    hue = int(rng.choice(HUES))
    return (target,), {"hue": hue}, [context.crops[target].box_4]


def recolor(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    parameters = edit.parameters
    canvas.recolour(canvas.crop(object_HW), parameters.get("lab"), parameters.get("hue"))
    return object_HW


def placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray]:
    return [masks[0]]


WRONG_COLOUR = EditKind(plan, recolor, placed)
