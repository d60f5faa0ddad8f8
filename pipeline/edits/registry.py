"""Every kind of edit by name: the only place that knows which file plans and applies which kind."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.edits.base import EditKind
from pipeline.edits.kinds import background, exchange, move, recolor, remove, replace, reshape
from pipeline.errors import RecordError
from pipeline.records import Edit, ObjectProposals

EDITS: Mapping[str, EditKind] = {
    "missing": remove.MISSING,
    "extra": move.EXTRA,
    "misplaced": move.MISPLACED,
    "swapped": exchange.SWAPPED,
    "wrong_type": replace.WRONG_TYPE,
    "wrong_orientation": reshape.WRONG_ORIENTATION,
    "wrong_size": reshape.WRONG_SIZE,
    "wrong_colour": recolor.WRONG_COLOUR,
    "wrong_order": exchange.WRONG_ORDER,
    "control_noop": remove.CONTROL_NOOP,
    "control_background": background.CONTROL_BACKGROUND,
}


def edit_kind(name: str) -> EditKind:
    """The record of a kind; RecordError for one that is not here (composite ones have none)."""
    if name not in EDITS:
        raise RecordError(
            f"no file of pipeline/edits/kinds plans and applies {name!r}; known: {', '.join(EDITS)}"
        )
    return EDITS[name]


def placed_masks(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None = None
) -> list[np.ndarray] | None:
    """Where the edit lays objects down, see `EditKind.placed`."""
    return edit_kind(edit.kind).placed(edit, masks, proposals)
