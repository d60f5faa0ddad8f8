"""Logical edits as plans: which part becomes wrong in which way, or is only painted anew.

A plan names proposals, offsets and numbers, no pixels, so it can be stored as JSON, replayed and
counted. Pixels change only in `compose.py`. What each kind does, and when not: docs/edits.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.edits import placement as edits_place
from pipeline.edits.context import Stock, stock_of
from pipeline.edits.donors import NO_DONORS, Donors
from pipeline.edits.kinds import replace as edits_type
from pipeline.edits.kinds import reshape as edits_look
from pipeline.edits.placement import Found
from pipeline.imaging.masks import apart, hull
from pipeline.records import Edit, ObjectProposals
from pipeline.settings import EditSettings, pixels_at

PRESETS = {
    "full": (
        "missing", "extra", "misplaced", "swapped", "wrong_type", "wrong_orientation",
        "wrong_size", "wrong_colour", "wrong_order",
    ),
    "paper": ("missing",),  # one random object, Inpaint Anything's *remove*, as the source method
}  # fmt: skip
PROMPTED_PAPER = ("missing", "missing", "wrong_type") * 3 + ("missing",)
"""The paper's turns where a filler is there: *remove* seven times in ten, *fill* three times."""
CONTROLS = ("control_noop", "control_background")
"""The kinds that leave the meaning unchanged, in the order in which they take turns."""
PAIRS = 8
"""Second edits that are tried beside a first one, for `combined`."""


@dataclass(frozen=True, slots=True)
class _Means:
    """What a planner may use beyond the image's own parts."""

    settings: EditSettings
    donors: Donors
    fills: bool


def kinds_of(settings: EditSettings, fills: bool = False) -> tuple[str, ...]:
    """The kinds that change the meaning, in the order in which they take turns.

    `fills` says that a filler is configured; then the paper's list names its kinds repeatedly.
    """
    if settings.kinds is None and settings.preset == "paper" and fills:
        return PROMPTED_PAPER
    return settings.kinds or PRESETS[settings.preset]


def plan(
    proposals: ObjectProposals,
    rng: np.random.Generator,
    settings: EditSettings,
    kind: str | None = None,
    *,
    donors: Donors = NO_DONORS,
    image_HW3: np.ndarray | None = None,
    fills: bool = False,
) -> Edit | None:
    """A random edit of the given kind (by default any of the settings'), or None when none fits.

    Without a kind they are tried in random order.

    With the image, parts that look alike are not exchanged, parts that look the same after a turn
    are not turned, and colours are taken from other parts; without it outlines alone decide.
    `donors` lend parts for `wrong_type`; `fills` says that a filler can make some of those.
    """
    if not len(proposals):
        return None
    stock = stock_of(proposals, image_HW3)
    means = _Means(settings, donors, fills)
    # A kind that is named seven times comes first seven times as often.
    kinds = [kind] if kind else dict.fromkeys(rng.permutation(kinds_of(settings, fills)).tolist())
    for chosen in kinds:
        edit = _planned(stock, rng, means, str(chosen))
        if edit is not None:
            return edit
    return None


def _planned(stock: Stock, rng: np.random.Generator, means: _Means, kind: str) -> Edit | None:
    return _combined(stock, rng, means) if kind == "combined" else _single(stock, rng, means, kind)


def _single(stock: Stock, rng: np.random.Generator, means: _Means, kind: str) -> Edit | None:
    if kind == "wrong_type":
        found = _wrong_type(stock, rng, means)
    elif kind == "wrong_orientation":
        found = edits_look.orientation(stock, rng, means.donors)
    elif kind == "control_background" and means.fills and means.settings.ground_prompts:
        found = edits_place.surroundings(stock, rng, means.settings.ground_prompts)
    else:
        found = _PLANNERS[kind](stock, rng)
    if found is None:
        return None
    targets, parameters, boxes = found
    settings, size_HW = means.settings, stock.size_HW
    dilation = round(pixels_at(settings.dilation, size_HW))
    feather = round(pixels_at(settings.feather, size_HW))
    parameters |= {
        "dilation": dilation,
        "feather": feather,
        "match_noise": settings.match_noise,
        "foreground_share": _share_of_foreground(stock.proposals, targets),
        "region": list(hull(boxes, max(dilation, feather, 1) + dilation // 2 + 1, size_HW)),
    }
    return Edit(kind, targets, parameters, seed=int(rng.integers(2**62)))


def _combined(stock: Stock, rng: np.random.Generator, means: _Means) -> Edit | None:
    """Two edits of different kinds whose regions, as boxes, share no pixel."""
    kinds = [kind for kind in kinds_of(means.settings) if kind != "combined"]
    if len(set(kinds)) < 2:
        kinds = list(PRESETS["full"])
    first = _single(stock, rng, means, str(rng.choice(kinds)))
    if first is None:
        return None
    rest = [kind for kind in kinds if kind != first.kind]
    for _ in range(PAIRS):
        second = _single(stock, rng, means, str(rng.choice(rest)))
        if second is None or not apart(first.parameters["region"], second.parameters["region"]):
            continue
        pair = (first, second)
        regions = [edit.parameters["region"] for edit in pair]
        targets = first.targets + second.targets
        parameters = {
            "edits": [edit.to_json() for edit in pair],
            "foreground_share": _share_of_foreground(stock.proposals, targets),
            "region": list(hull(regions, 0, stock.size_HW)),
        }
        return Edit("combined", targets, parameters, seed=int(rng.integers(2**62)))
    return None


def _wrong_type(stock: Stock, rng: np.random.Generator, means: _Means) -> Found | None:
    share = 1.0 if means.settings.preset == "paper" else edits_type.PROMPTED
    prompts = means.settings.prompts
    return edits_type.wrong_type(stock, rng, means.donors, prompts, share if means.fills else 0.0)


_PLANNERS: dict[str, Callable[[Stock, np.random.Generator], Found | None]] = {
    "missing": edits_place.missing,
    "extra": edits_place.extra,
    "misplaced": edits_place.misplaced,
    "swapped": edits_place.swapped,
    "wrong_size": edits_look.size,
    "wrong_colour": edits_look.colour,
    "wrong_order": edits_place.wrong_order,
    "control_noop": edits_place.missing,  # same target, same machinery; the part is put back
    "control_background": edits_place.background,
}


def _share_of_foreground(proposals: ObjectProposals, targets: tuple[int, ...]) -> float:
    touched_HW = proposals.masks_NHW[list(targets)].any(0) & proposals.foreground_HW
    whole = int(np.count_nonzero(proposals.foreground_HW))
    return round(int(np.count_nonzero(touched_HW)) / max(1, whole), 6)
