"""`missing`: an object is removed. `control_noop`: it is removed and put back where it was."""

import numpy as np

from pipeline.edits.base import EditKind, Found
from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.settings import EditSettings
from pipeline.records import Edit


def plan(context: ImageContext, rng: np.random.Generator, settings: EditSettings) -> Found | None:
    """Any object, also one that the frame cuts."""
    target = int(rng.integers(len(context)))
    return (target,), {}, [context.crops[target].box_4]


def remove(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    object_HW = context.union(edit.targets)
    canvas.take_away(canvas.cut(object_HW))
    return object_HW


def put_back(canvas: Canvas, edit: Edit, context: ImageContext) -> np.ndarray:
    """Composited like every other object, so that no treatment of an edge gives a control away."""
    object_HW = context.union(edit.targets)
    inner_hw = canvas.cut(object_HW)
    clean_hw3 = canvas.take_away(inner_hw)
    cutout = context.cutout(edit.targets[0], canvas.band, canvas.feather)
    canvas.put_down(cutout, (0, 0), inner_hw, clean_hw3)
    return object_HW


MISSING = EditKind(plan, remove)
CONTROL_NOOP = EditKind(plan, put_back)
