"""What an edit kind is: how it is planned, how it is applied, and where its objects lie afterwards.

Every file in `edits/kinds/` offers records of this shape; `edits/registry.py` lists them. A kind
knows no other kind.
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

# Target proposals, the kind's own parameters, and the boxes of all outlines before and after.
Found = tuple[tuple[int, ...], dict[str, Any], list[Box]]

Plan = Callable[[ImageContext, np.random.Generator, EditSettings], Found | None]
Apply = Callable[[Canvas, Edit, ImageContext], np.ndarray]
Placed = Callable[[Edit, Sequence[np.ndarray], ObjectProposals | None], list[np.ndarray] | None]


def nothing_placed(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None
) -> list[np.ndarray]:
    """For kinds that lay no object down."""
    return []


@dataclass(frozen=True, slots=True)
class EditKind:
    """One kind of edit.

    `plan(context, rng, settings)` gives targets, parameters and boxes, or None when nothing fits.

    `apply(canvas, edit, context)` edits the canvas and gives the whole mask (H, W) bool of the
    objects it touches, as they lay before.

    `placed(edit, masks, proposals)` gives the masks (H, W) bool of the objects that the edit lays
    down, where they lie afterwards. `masks` are those of its targets. An outline that only the
    donor image has is estimated from box and area, as it is where `proposals` are None. The answer
    is None when nobody can know it (a prompt).
    """

    plan: Plan
    apply: Apply
    placed: Placed = nothing_placed
