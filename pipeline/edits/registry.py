"""Registry of edit kinds: the only place that maps a kind's name to the file that implements it."""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.edits.base import EditKind
from pipeline.edits.kinds import background, exchange, move, recolor, remove, replace, reshape
from pipeline.errors import RecordError
from pipeline.records import Edit, ObjectProposals

# All kinds of `pipeline.kinds.TABLE` except composite ones, which consist of these.
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
    """The record of a kind; RecordError for unknown kinds, and for composite ones, without any."""
    if name not in EDITS:
        raise RecordError(
            f"no file of pipeline/edits/kinds implements {name!r}; expected one of "
            f"{', '.join(EDITS)}"
        )
    return EDITS[name]


def placed_masks(
    edit: Edit, masks: Sequence[np.ndarray], proposals: ObjectProposals | None = None
) -> list[np.ndarray] | None:
    """Masks of the objects that the edit pastes, at their new place; see `EditKind.placed`."""
    # Raises for composite edits: their parts are passed one by one.
    return edit_kind(edit.kind).placed(edit, masks, proposals)
