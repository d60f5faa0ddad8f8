"""Draft a rule book from good images: which parts, how many, where, and how they look.

The seed of it is SALAD's composition maps (Fučka et al., ICCV 2025): segments of good images,
clustered, are a product's parts. Here the clusters become rules that a person can read. What does
not recur is reported as not used and stays known to the judge as such; nothing is guessed.

Shapes: I images; N parts of all images; G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.cluster.vq import kmeans2

from pipeline.errors import UserError
from pipeline.rulebook.book import (
    Book,
    Colour,
    Examples,
    PartRules,
    Place,
    Prototypes,
    Together,
    Total,
    Turn,
)
from pipeline.rulebook.clustering import TOGETHER, Group, groups_of, irregularity
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.recognition import VIEWS, Space, columns_of, distances

LEAST_IMAGES = 6
"""Good images below which regularity means nothing."""
RECURS = 0.75
"""Share of the images that must show a kind for it to be used."""
USUAL = 0.75
"""Share of the images with the commonest count from which on that count is the rule."""
RARE = 0.05
"""Share of the images below which a count is taken for an error of finding."""
EQUAL = 0.95
"""Share of the images in which two kinds must be equally many to belong together."""
EXAMPLES = 64
"""Examples kept of one kind."""
ANYWHERE = 0.35
"""Area, in units of the product's, from which on a box says nothing."""
WIDEST_SLOT = 0.15
"""Radius, in product units, above which a place is a box and no slot."""
SLOTS_KEPT = 0.9
"""Share of the images that must have one part in every slot."""
STRAY = 6.0
"""Robust deviations from the middle beyond which one value is no measure of its kind."""
MIN_LIMIT = 2.0
"""Least distance that good parts are granted, in deviations of noise."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A book and its examples, where they come from, and what was not used and why.

    `shown` lists, per group, (image, part) of its most typical members, for the contact sheet.
    """

    book: Book
    examples: Examples
    shown: tuple[tuple[tuple[int, int], ...], ...]
    remarks: dict[int, str]
    not_used: dict[int, str]


def draft(found: Sequence[Parts], category: str) -> Draft:
    """Rules from the parts of good images; the same parts give the same draft.

    UserError with fewer than `LEAST_IMAGES` images or without any recurring part.
    """
    if len(found) < LEAST_IMAGES:
        raise UserError(
            f"{category}: {len(found)} good images are too few to see what is regular; "
            f"give at least {LEAST_IMAGES}, better 30"
        )
    all_ = _Parts.of(found)
    if not len(all_.images_N):
        raise UserError(f"{category}: no part was found in {len(found)} images; nothing to draft")
    space = Space.learned(all_.vectors_NC, all_.images_N)
    points_ND = space.of(all_.vectors_NC)
    groups = groups_of(points_ND, all_.images_N, len(found))
    if not groups:
        raise UserError(f"{category}: the parts of {len(found)} images have nothing in common")
    examples, typical = _examples(space, points_ND, all_, groups)
    parts: dict[str, PartRules] = {}
    remarks: dict[int, str] = {}
    not_used: dict[int, str] = {}
    names: dict[int, str] = {}
    for index, group in enumerate(groups):
        counts_I = np.bincount(all_.images_N[group.members_M], minlength=len(found))
        shown_in = int((counts_I > 0).sum())
        if shown_in < RECURS * len(found) and not group.stands_in:
            not_used[index] = f"found in {shown_in} of {len(found)} images only"
            continue
        name = names[index] = f"part_{len(parts) + 1}"
        parts[name] = _rules_of(all_, group, counts_I, examples, index)
        usual = np.bincount(counts_I).argmax()
        share = (counts_I == usual).mean()
        remarks[index] = f"seen in {shown_in} of {len(found)} images; {usual} in {share:.0%}"
    if not parts:
        raise UserError(f"{category}: no part recurs in {RECURS:.0%} of the images; see `not used`")
    middles_GD = np.stack([np.median(points_ND[group.members_M], 0) for group in groups])
    totals, together = _relations(all_, groups, names, len(found), middles_GD)
    slots = [p for p in parts.values() if isinstance(p.place, Place) and p.place.slots is not None]
    book = Book(
        category=category,
        drafted_from=len(found),
        prototypes=Prototypes(file="unsaved", sha256="0" * 64),
        parts=parts,
        totals=totals,
        together=together,
        order=len({p.place.slots for p in slots if isinstance(p.place, Place)}) > 1,
        unknown=True,
    )
    shown = tuple(
        tuple((int(all_.images_N[k]), int(all_.numbers_N[k])) for k in members)
        for members in typical
    )
    return Draft(book, examples, shown, remarks, not_used)


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """The parts of all images in one row."""

    images_N: np.ndarray
    numbers_N: np.ndarray
    vectors_NC: np.ndarray
    places_N2: np.ndarray
    sizes_N: np.ndarray
    angles_N: np.ndarray  # degrees, NaN for round parts
    labs_N3: np.ndarray
    faces_NS: np.ndarray

    @classmethod
    def of(cls, found: Sequence[Parts]) -> "_Parts":
        looks = [look for parts in found for look in parts.looks]
        if not looks:
            return cls(*([np.zeros(0, np.int64)] * 2), *([np.zeros((0, 2))] * 6))
        return cls(
            np.repeat(np.arange(len(found)), [len(parts) for parts in found]),
            np.concatenate([np.arange(len(parts)) for parts in found]),
            np.stack([look.vector_C for look in looks]),
            np.concatenate([parts.centres_N2 for parts in found]),
            np.array([look.size for look in looks]),
            np.array([np.nan if look.angle is None else look.angle for look in looks]),
            np.array([look.lab for look in looks]),
            np.stack([look.face_S for look in looks]),
        )


def _examples(
    space: Space, points_ND: np.ndarray, all_: _Parts, groups: Sequence[Group]
) -> tuple[Examples, list[np.ndarray]]:
    """What is kept of every group, and its members from the most typical on."""
    kept: list[np.ndarray] = []
    limits = np.zeros((len(groups), len(VIEWS)), np.float32)
    typical = []
    for index, group in enumerate(groups):
        members = group.members_M
        centre_D = np.median(points_ND[members], 0)
        order = np.argsort(np.linalg.norm(points_ND[members] - centre_D, axis=1), kind="stable")
        typical.append(members[order])
        # Every n-th from the typical to the odd: a kind has several faces (a pin, with its needle).
        kept.append(members[order][:: -(-len(members) // EXAMPLES)])
        for view in VIEWS:
            columns = columns_of(view, points_ND.shape[1])
            here = points_ND[members][:, columns]
            apart = distances(here, here)
            apart[all_.images_N[members][:, None] == all_.images_N[members][None]] = np.inf
            nearest = apart.min(1)
            nearest = nearest[np.isfinite(nearest)]
            limits[index, view] = np.percentile(nearest, 95) if len(nearest) else 0
    limits = np.maximum(limits, np.maximum(np.median(limits, 0), MIN_LIMIT))
    faces = np.stack([all_.faces_NS[g.members_M].mean(0) for g in groups])
    faces /= np.linalg.norm(faces, axis=1, keepdims=True) + 1e-6
    chosen = np.concatenate(kept)
    examples = Examples(
        points_ND[chosen].astype(np.float32),
        np.repeat(np.arange(len(groups)), [len(members) for members in kept]).astype(np.int32),
        limits,
        faces.astype(np.float32),
        space.mean_F.astype(np.float32),
        np.ascontiguousarray(space.basis_FD, np.float32),
        space.scale_D.astype(np.float32),
    )
    return examples, typical


def _rules_of(
    all_: _Parts, group: Group, counts_I: np.ndarray, examples: Examples, index: int
) -> PartRules:
    members = group.members_M
    return PartRules(
        examples=index,
        count=_count(counts_I, free=group.stands_in),
        place=_place(all_.places_N2[members], all_.images_N[members], counts_I),
        size=_size(all_.sizes_N[members]),
        colour=_colour(all_.labs_N3[members]),
        turn=_turn(all_.angles_N[members], all_.faces_NS[members], examples.faces_KS[index]),
    )


def _count(counts_I: np.ndarray, *, free: bool) -> int | tuple[int, int]:
    """The usual count, or the range of counts that are no rarities."""
    if not free and irregularity(counts_I) <= 1 - USUAL:
        return int(np.bincount(counts_I).argmax())
    shares = np.bincount(counts_I) / len(counts_I)
    usual = np.flatnonzero(shares > (0 if free else RARE))
    return int(usual.min()), int(usual.max())


def _place(points_M2: np.ndarray, images_M: np.ndarray, counts_I: np.ndarray) -> Place | str:
    """Slots where every image has its parts at the same spots, else a box, else anywhere."""
    points_M2 = points_M2[_near(points_M2)] if len(points_M2) > 2 else points_M2
    number = int(np.bincount(counts_I[counts_I > 0]).argmax())
    if number * 3 <= len(points_M2) and len(images_M) == len(points_M2):
        slots = _slots(points_M2, images_M, number)
        if slots is not None:
            return slots
    low, high = points_M2.min(0), points_M2.max(0)
    margin = np.maximum(0.15 * (high - low), 0.015)
    low, high = low - margin, high + margin
    if (high - low).prod() > ANYWHERE:
        return "anywhere"
    return Place(box=_rounded(low[0], low[1], high[0], high[1]))


def _slots(points_M2: np.ndarray, images_M: np.ndarray, number: int) -> Place | None:
    """As many spots as there are parts, if nearly every image has one part in each."""
    full = np.flatnonzero(np.bincount(images_M) == number)
    if not len(full):
        return None
    start = points_M2[images_M == full[0]]
    centres, labels = kmeans2(points_M2, start, minit="matrix", iter=20)
    reach = float(np.linalg.norm(points_M2 - centres[labels], axis=1).max())
    near = min((float(np.linalg.norm(a - b)) for a, b in combinations(centres, 2)), default=1.0)
    once = [len(set(labels[images_M == image])) == number for image in full]
    if reach > 0.5 * near or reach > WIDEST_SLOT or np.mean(once) < SLOTS_KEPT:
        return None
    radius = min(max(1.2 * reach, 0.02), 0.5 * near)
    order = np.lexsort((centres[:, 0], np.round(centres[:, 1] / max(radius, 0.02))))
    return Place(slots=tuple(_rounded(*centres[k]) for k in order), radius=round(radius, 3))


def _size(sizes_M: np.ndarray) -> tuple[float, float]:
    kept = sizes_M[_near(np.log(sizes_M)[:, None])]
    return round(float(kept.min() * 0.95), 4), round(float(kept.max() * 1.05), 4)


def _colour(labs_M3: np.ndarray) -> Colour:
    middle = np.median(labs_M3, 0)
    kept = labs_M3[_near(labs_M3)]
    off = float(np.linalg.norm(kept - middle, axis=1).max())
    return Colour(lab=_rounded(*middle, digits=1), within=round(1.25 * off + 1, 1))


def _turn(angles_M: np.ndarray, faces_MS: np.ndarray, face_S: np.ndarray) -> Turn | str:
    """How the parts lie, if all lie alike; by their axis, and by which side of them is light."""
    around = within = upright = None
    if np.isfinite(angles_M).mean() >= RECURS:
        doubled = np.deg2rad(2 * angles_M[np.isfinite(angles_M)])
        middle = float(np.rad2deg(np.arctan2(np.sin(doubled).mean(), np.cos(doubled).mean())) / 2)
        off = np.abs((np.rad2deg(doubled) / 2 - middle + 90) % 180 - 90)
        reach = float(np.percentile(off, 98))
        if reach <= 20:
            around, within = round(middle % 180, 1), round(1.25 * reach + 4, 1)
    upright = _upright(faces_MS, face_S)
    if around is None and upright is None:
        return "any"
    return Turn(around=around, within=within or 15, upright=upright)


def _upright(faces_MS: np.ndarray, face_S: np.ndarray) -> float | None:
    """Least likeness to the mean face, if every part turned about looks less like it."""
    side = int(np.sqrt(faces_MS.shape[1]))
    likeness = np.percentile(faces_MS @ face_S, 2)
    turned = [
        np.percentile(
            np.rot90(faces_MS.reshape(-1, side, side), k, (1, 2)).reshape(len(faces_MS), -1)
            @ face_S,
            98,
        )
        for k in (1, 2, 3)
    ]
    if likeness - max(turned) < 0.15:
        return None
    return round(float((likeness + max(turned)) / 2), 2)


def _relations(
    all_: _Parts,
    groups: Sequence[Group],
    names: dict[int, str],
    images: int,
    middles_GD: np.ndarray,
) -> tuple[tuple[Total, ...], tuple[Together, ...]]:
    """Kinds of which one stands for the other, and kinds that come together."""
    counts = {
        index: np.bincount(all_.images_N[groups[index].members_M], minlength=images)
        for index in names
    }
    totals: list[Total] = []
    free = [index for index in names if groups[index].stands_in]
    while free:
        family, sums_I = _family(free, counts, middles_GD)
        if len(family) > 1 and irregularity(sums_I) <= RARE:
            words = tuple(names[index] for index in family)
            count = int(np.bincount(sums_I).argmax())
            totals.append(Total(name=f"one_of_{len(totals) + 1}", parts=words, count=count))
            free = [index for index in free if index not in family]
        else:
            free = free[1:]
    together: list[Together] = []
    for first, second in combinations(names, 2):
        varies = min(irregularity(counts[first]), irregularity(counts[second])) > RARE
        if varies and (counts[first] == counts[second]).mean() >= EQUAL:
            pair = (names[first], names[second])
            together.append(Together(name=f"pair_{len(together) + 1}", parts=pair))
    return tuple(totals), tuple(together)


def _family(
    free: Sequence[int], counts: dict[int, np.ndarray], middles_GD: np.ndarray
) -> tuple[list[int], np.ndarray]:
    """The first kind and those most like it that no image shows beside it, until all images show
    one; and how many of them there are per image."""
    first = free[0]
    family, sums_I = [first], counts[first]
    apart = np.linalg.norm(middles_GD - middles_GD[first], axis=1)
    for index in sorted(free[1:], key=lambda k: float(apart[k])):
        if (sums_I > 0).mean() >= 1 - RARE:
            break
        if ((sums_I > 0) & (counts[index] > 0)).mean() <= TOGETHER:
            family.append(index)
            sums_I = sums_I + counts[index]
    return family, sums_I


def _near(values_MK: np.ndarray) -> np.ndarray:
    """Which rows are no strays: within `STRAY` robust deviations in every column; bool (M,)."""
    off = np.abs(values_MK - np.median(values_MK, 0))
    spread = np.maximum(1.4826 * np.median(off, 0), 1e-3)
    near = (off <= STRAY * spread).all(1)
    return near if near.any() else np.ones(len(values_MK), np.bool_)


def _rounded(*values: float, digits: int = 3) -> tuple[float, ...]:
    return tuple(round(float(value), digits) for value in values)
