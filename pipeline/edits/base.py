"""The interface of an edit kind: how it is planned and applied, and where its objects are after.

Every file in `edits/kinds/` defines records of this type, and `edits/registry.py` lists them. Kinds
do not import each other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.edits.compositing.canvas import Canvas
from pipeline.edits.context import ImageContext
from pipeline.edits.settings import EditSettings
from pipeline.imaging.masks import Box
from pipeline.records import Edit, ObjectProposals

# A planned edit: indices of the target proposals, the kind's own parameters (JSON values), and the
# boxes of all outlines before and after.
Found = tuple[tuple[int, ...], dict[str, Any], list[Box]]

# The signatures of the three functions of a kind, see `EditKind`.
Plan = Callable[[ImageContext, np.random.Generator, EditSettings], Found | None]
Apply = Callable[[Canvas, Edit, ImageContext], np.ndarray]
Placed = Callable[[Edit, Sequence[np.ndarray], ObjectProposals | None], list[np.ndarray] | None]


def nothing_placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray]:
    """`EditKind.placed` of kinds that paste no object."""
    return []


@dataclass(frozen=True, slots=True)
class EditKind:
    """One kind of edit.

    `plan(context, rng, settings)` returns targets, parameters and boxes, or None when nothing fits.

    `apply(canvas, edit, context)` edits the canvas and returns the full-size mask (H, W) bool of
    the objects it touches, at their old place.

    `placed(edit, masks, proposals)` returns the masks (H, W) bool of the objects that the edit
    pastes, at their new place. `masks` are those of its targets. An outline that is known only in
    the donor image is estimated from box and area, as are all where `proposals` are None. The
    result is None when the outline cannot be known (a prompt).
    """

    plan: Plan
    apply: Apply
    placed: Placed = nothing_placed
