"""Whose a piece is that touches two parts: the leg of one that ends at the other.

Seen from either part the leg is a thing that begins at its mask, sticks out and ends nearby. Legs
come in groups: it belongs to the part that has more of them. Where that does not tell, it belongs
to the part along which much more of it lies, else nobody knows.

Shapes: H, W image; h, w window; N proposals; 3 colour (CIELAB).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.edits.things import NEXT
from pipeline.imaging.masks import MaskCrop, dilated, distance_from

# CIELAB distance up to which two pieces are of one group.
ALIKE = 15.0
# How often longer one contact must be than all others. Measured on 24 scenes: legs are as wide at
# their tips as where they begin.
LONGER = 2.0
# Share of a piece that lies along a rival, from which it is the gap between two parts.
ALONG = 0.6
# Answers other than a part: a piece of no part, and one of which nobody can tell.
NOBODYS, UNDECIDED = -1, -2


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A piece that begins at a part; the same with the pixels next to it (`wider`), and without
    those along the part (`outer`), which are its rim where the piece is another's.

    `colour_3` is its mean colour, `contact` how many of its pixels lie next to the part, and
    `rivals` how many lie next to other parts that it touches, by their index.
    """

    piece: MaskCrop
    wider: MaskCrop
    outer: MaskCrop
    colour_3: np.ndarray
    contact: int
    rivals: Mapping[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Share:
    """Pieces that are a part's own, those beside it that are others' or may be, and whether there
    is one of which nobody can tell."""

    own: Sequence[MaskCrop]
    others: Sequence[MaskCrop]
    undecided: bool


def claim_of(
    piece_hw: np.ndarray,
    near: tuple[slice, slice],
    lab_HW3: np.ndarray,
    distance_hw: np.ndarray,
    masks_NHW: np.ndarray,
    others: Sequence[int],
    off: float,
) -> Claim:
    """The claim on a piece in the window `near` (rows, columns), against `others` among the masks.

    `distance_hw` is the distance from the part that claims it, whose outline, as those of the
    others, may be off by `off` pixels.
    """
    place = MaskCrop.of(piece_hw).moved(near[1].start, near[0].start)
    x0, y0, x1, y1 = place.box_4
    apart = 2 * round(off) + 1
    top, left = max(0, y0 - apart), max(0, x0 - apart)
    inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
    rivals = {}
    for other in others:
        mask_hw = masks_NHW[other, top : y1 + apart, left : x1 + apart]
        if not mask_hw.any():
            continue
        away_hw = distance_from(mask_hw)[inner]
        away = away_hw[place.mask_hw]
        if away.min() <= apart:
            rivals[other] = int(np.count_nonzero(away <= away.min() + NEXT))
    colour_3 = lab_HW3[y0:y1, x0:x1][place.mask_hw].mean(0)
    away = distance_hw[piece_hw]
    contact = int(np.count_nonzero(away <= away.min() + NEXT))
    margin = round(off)
    wider_hw = dilated(np.pad(place.mask_hw, margin), margin)
    wider = MaskCrop(wider_hw, x0 - margin, y0 - margin)
    # The tip of a leg of another part remains: it lies next to the rest of the leg.
    distance_hw = distance_hw[y0 - near[0].start :, x0 - near[1].start :]
    far_hw = distance_hw[: y1 - y0, : x1 - x0] > 2 * off
    outer_hw = place.mask_hw & dilated(place.mask_hw & far_hw, round(2 * off))
    return Claim(place, wider, MaskCrop(outer_hw, x0, y0), colour_3, contact, rivals)


def share_of(
    index: int, around: Callable[[int], Sequence[int]], claims: Callable[[int], Sequence[Claim]]
) -> Share:
    """What a part has of the pieces that it and the parts around it claim.

    `around(part)` are the parts whose pieces may reach a part, `claims(part)` its claims.
    """
    own, others, undecided = [], [], False
    for part in (index, *around(index)):
        for claim in claims(part):
            contacts = _contacts(claim, part, around, claims)
            if index not in contacts:
                continue
            owner = _owner(claim, contacts, around, claims)
            undecided |= owner == UNDECIDED
            if owner == index:
                own.append(claim.piece if part == index else claim.outer)
            elif owner != NOBODYS:
                others.append(claim.outer)
    return Share(own, others, undecided)


def union_of(pieces: Sequence[MaskCrop], size_HW: tuple[int, int]) -> np.ndarray:
    """Pieces in their image, (H, W) bool."""
    union_HW = np.zeros(size_HW, np.bool_)
    for piece in pieces:
        x0, y0, x1, y1 = piece.box_4
        union_HW[y0:y1, x0:x1] |= piece.mask_hw
    return union_HW


def _contacts(
    claim: Claim,
    part: int,
    around: Callable[[int], Sequence[int]],
    claims: Callable[[int], Sequence[Claim]],
) -> dict[int, int]:
    """The parts that a piece touches or that claim it as well, and how much of it lies along each;
    first the one that claims it here."""
    contacts = {part: claim.contact, **claim.rivals}
    for other in around(part):
        for its in claims(other):
            if other not in contacts and its.wider.overlaps(claim.piece):
                contacts[other] = its.contact
    return contacts


def _owner(
    claim: Claim,
    contacts: Mapping[int, int],
    around: Callable[[int], Sequence[int]],
    claims: Callable[[int], Sequence[Claim]],
) -> int:
    """The part that a piece belongs to, NOBODYS or UNDECIDED."""
    part, *rivals = contacts
    if not rivals:
        return part
    if max(contacts[rival] for rival in rivals) >= ALONG * claim.piece.area:
        return NOBODYS
    # Legs come in groups, and some of them nobody else claims.
    grouped = [
        index
        for index in contacts
        if any(
            np.linalg.norm(claim.colour_3 - one.colour_3) <= ALIKE
            for one in claims(index)
            if len(_contacts(one, index, around, claims)) == 1
        )
    ]
    if len(grouped) == 1:
        return grouped[0]
    # Of several with like pieces one of them.
    asked = sorted(grouped or contacts, key=lambda index: contacts[index])
    longest, next_longest = contacts[asked[-1]], contacts[asked[-2]]
    return asked[-1] if longest >= LONGER * next_longest else UNDECIDED
