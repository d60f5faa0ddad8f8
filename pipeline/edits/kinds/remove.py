"""`missing`: an object is removed. `control_noop`: it is removed and pasted back at its place."""

import numpy as np

from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.part_identity import worth_editing
from pipeline.edits.settings import EditSettings
from pipeline.records import Edit


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    """Any part, including those truncated by the image's edge; the product itself only where the
    background repeats itself and what it covers is known."""
    return _planned(context, rng, uncovers=True)


def plan_noop(
    context: ImageContext, rng: np.random.Generator, settings: EditSettings
) -> Found | None:
    return _planned(context, rng, uncovers=False)


def _planned(context: ImageContext, rng: np.random.Generator, *, uncovers: bool) -> Found | None:
    # Removal never shows a cut edge in mid-image, so truncated objects are allowed here.
    choice = [
        index
        for index in worth_editing(context, uncovers=uncovers)
        if not context.is_product(index) or context.is_known_behind(index)
    ]
    if not choice:
        return None
    target = choice[int(rng.integers(len(choice)))]
    return (target,), {}, [context.crops[target].box_4]


def remove(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    canvas.remove_object(canvas.crop(object_HW))
    return object_HW


def put_back(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    """Remove the object and paste it back through the same compositing as every other edit.

    A detector can then not recognise anomalies by the treatment of an edge.
    """
    object_HW = context.union(edit.targets)
    inner_hw = canvas.crop(object_HW)
    clean_hw3 = canvas.remove_object(inner_hw)
    # Offset 0: the object and its shadow return to where they were.
    cutout = context.cutout(edit.targets[0], canvas.band, canvas.feather)
    canvas.paste_moved(cutout, (0, 0), inner_hw, clean_hw3)
    return object_HW


MISSING = EditKind(plan, remove)
CONTROL_NOOP = EditKind(plan_noop, put_back)
