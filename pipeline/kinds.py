"""The table of edit kinds: the taxonomy of logical anomalies, and the controls.

A kind consists of its row here (name, summary, traits), a file in `edits/kinds/` that plans and
applies it, and a line in `edits/registry.py`. Everything that treats kinds differently (gate, rule
books, audit, presets, manifest schema, help, galleries, tables of the docs) uses the traits of the
row and never a name. This file imports no image library, so readers of a dataset need no OpenCV.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.errors import RecordError

# Name prefix of kinds that leave the meaning unchanged; their samples are labelled normal. Readers
# decide by the prefix alone, so that they can label kinds of newer releases.
CONTROL = "control_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of edit.

    `summary` says in one line what a sample shows, `stands_for` which logical anomalies of MVTec
    LOCO AD it imitates. The other fields are the traits by which the program treats kinds.
    """

    name: str
    summary: str
    stands_for: str = ""
    # Consists of several edits of other kinds, whose regions share no pixel.
    composite: bool = False
    # Nothing is removed: the edited object stays where it is.
    adds: bool = False
    # Objects trade places with one another.
    exchanges: bool = False
    # The object is interpolated at its place, which changes its sensor noise.
    resamples: bool = False
    # Another object, or the same one in another pose, takes the object's place and must look
    # different from it.
    replaces: bool = False
    # The whole change mask is inpainted (except for an object that is pasted back unchanged).
    inpaints: bool = False
    # The object itself lies elsewhere afterwards, where good images do not show it.
    relocates: bool = False
    # Part of the object's old place stays free and shows inpainted background.
    uncovers: bool = False
    # What the change mask shows afterwards; audits compare it with controls that show the same.
    mask_shows: Literal["background", "object", "both"] = "object"

    @property
    def control(self) -> bool:
        """True when the meaning does not change: samples are labelled 0, normal."""
        return is_control(self.name)


# The order is part of the format: presets alternate in it, and shards number kinds by it. Shards
# store the list that they were written with, so versions that are older than a kind stay readable.
TABLE = (
    Kind(
        name="missing",
        summary="an object is missing",
        stands_for="missing object, missing separator, empty place, too few in a wrong count",
        inpaints=True,
        mask_shows="background",
    ),
    Kind(
        name="extra",
        summary="an object is there twice",
        stands_for="extra object, too many in a wrong count, wrong ratio",
        adds=True,
    ),
    Kind(
        name="misplaced",
        summary="an object lies in another place",
        stands_for="misplaced label or icon, wrong location, cable in the wrong place",
        uncovers=True,
        relocates=True,
        mask_shows="both",
    ),
    Kind(
        name="swapped",
        summary="two objects have traded places",
        stands_for="swapped labels, swapped compartments",
        exchanges=True,
        replaces=True,
    ),
    Kind(
        name="wrong_type",
        summary="something else lies in an object's place",
        stands_for="wrong connector, mismatched content and label, two tangerines and a nectarine, "
        "wrong combination",
        replaces=True,
        uncovers=True,
    ),
    Kind(
        name="wrong_orientation",
        summary="an object is turned or mirrored",
        stands_for="(none of its own: a label upside down, a part put in the wrong way round)",
        resamples=True,
        replaces=True,
        uncovers=True,
    ),
    Kind(
        name="wrong_size",
        summary="an object is too large or too small",
        stands_for="screw too long, too short; cable too short; wrong size",
        resamples=True,
        uncovers=True,
    ),
    Kind(
        name="wrong_colour",
        summary="an object has another colour",
        stands_for="wrong cable colour, wrong juice",
    ),
    Kind(
        name="wrong_order",
        summary="three to five objects have traded places in a ring",
        stands_for="wrong arrangement of several parts",
        exchanges=True,
        replaces=True,
    ),
    Kind(
        name="combined",
        summary="two of these in one sample, when asked for",
        stands_for="several anomalies in one image",
        composite=True,
        mask_shows="both",
    ),
    Kind(
        name="control_noop",
        summary="an object is removed and put back",
        inpaints=True,
    ),
    Kind(
        name="control_background",
        summary="bare background is inpainted again",
        inpaints=True,
        mask_shows="background",
    ),
)


def is_control(kind: str) -> bool:
    """True for kinds that leave the meaning unchanged (label 0, normal), by their name's prefix.

    It also decides about kinds that this release does not know.
    """
    return kind.startswith(CONTROL)


def kind_of(name: str) -> Kind:
    """The row of a kind; RecordError for an unknown one."""
    for kind in TABLE:
        if kind.name == name:
            return kind
    raise RecordError(f"kind must be one of {KINDS}, got {name!r}")


def names(wanted: Callable[[Kind], bool]) -> tuple[str, ...]:
    """The names of the kinds that fulfil a condition, in the order of the table."""
    return tuple(kind.name for kind in TABLE if wanted(kind))


KINDS = names(lambda kind: True)
# The kinds that change the meaning; the others are counted by `controls_per_image`.
EDIT_KINDS = names(lambda kind: not kind.control)
CONTROLS = names(lambda kind: kind.control)

if TYPE_CHECKING:
    EditKind = str
else:
    # For pydantic: the choices of the manifest, of its schema and of its error messages.
    EditKind = Literal[EDIT_KINDS]
