"""Draft a rule book from normal images: which parts, how many, where, and their appearance.

It follows the composition maps of SALAD (Fučka et al., ICCV 2025), where clustered segments of
normal images are a product's parts. Here the clusters become rules that a person can read. Kinds
that do not recur get no rules; they are listed as not used, and the judge still recognises them.

Shapes: I images; N parts of all images; M members of a group; G groups; S values of a face; C
length of a vector; D dimensions of `part_kinds.space.Space`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.errors import UserError
from pipeline.part_kinds.grouping import irregularity
from pipeline.part_kinds.space import Space, distances
from pipeline.rulebook.book import (
    Book,
    Examples,
    PartRules,
    Place,
    Prototypes,
    Together,
    Total,
)
from pipeline.rulebook.clustering import TOGETHER, Group, groups_of
from pipeline.rulebook.fit import (
    RARE,
    RECURS,
    colour_rule,
    count_rule,
    no_strays,
    place_rule,
    size_rule,
    turn_rule,
)
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.recognition import PLAIN, VIEWS, columns_of

# Normal images below which regularity is not evident.
LEAST_IMAGES = 6
# Share of the images in which two kinds must have equal counts to be paired.
EQUAL = 0.95
# Examples kept per kind.
EXAMPLES = 64
# Smallest limit of the distance to the nearest example, in standard deviations of noise.
MIN_LIMIT = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A drafted book with its examples, and what a person needs to review it.

    `shown` lists per group its members as (image, part), most typical first, for the contact sheet.
    `remarks` say in how many images a used group was seen, `not_used` why a group has no rules.
    """

    book: Book
    examples: Examples
    shown: tuple[tuple[tuple[int, int], ...], ...]
    remarks: dict[int, str]
    not_used: dict[int, str]


def draft(found: Sequence[Parts], category: str) -> Draft:
    """Rules from the parts of normal images. Deterministic.

    UserError with fewer than `LEAST_IMAGES` images or without any recurring part.
    """
    if len(found) < LEAST_IMAGES:
        raise UserError(
            f"{category}: {len(found)} good images are too few to draft rules; expected at least "
            f"{LEAST_IMAGES}, better 30"
        )
    all_ = _Parts.of(found)
    if not len(all_.images_N):
        raise UserError(f"{category}: no part was found in {len(found)} images; nothing to draft")
    # Cluster the parts of all images into kinds.
    space = Space.learned(all_.vectors_NC, all_.images_N, PLAIN)
    points_ND = space.of(all_.vectors_NC)
    groups = groups_of(points_ND, all_.images_N, len(found))
    if not groups:
        raise UserError(f"{category}: the parts of {len(found)} images have nothing in common")
    examples, typical = _examples(space, points_ND, all_, groups)
    # Rules for the kinds that recur; interchangeable kinds need not be in every image.
    parts: dict[str, PartRules] = {}
    remarks: dict[int, str] = {}
    not_used: dict[int, str] = {}
    names: dict[int, str] = {}
    for index, group in enumerate(groups):
        counts_I = np.bincount(all_.images_N[group.members_M], minlength=len(found))
        shown_in = int((counts_I > 0).sum())
        if shown_in < RECURS * len(found) and not group.interchangeable:
            not_used[index] = f"found in {shown_in} of {len(found)} images only"
            continue
        name = names[index] = f"part_{len(parts) + 1}"
        parts[name] = _rules_of(all_, group, counts_I, examples, index)
        # A remark for the person who reviews the draft.
        usual = np.bincount(counts_I).argmax()
        share = (counts_I == usual).mean()
        remarks[index] = f"seen in {shown_in} of {len(found)} images; {usual} in {share:.0%}"
    if not parts:
        raise UserError(f"{category}: no part recurs in {RECURS:.0%} of the images; see `not used`")
    # Rules about several kinds.
    middles_GD = np.stack([np.median(points_ND[group.members_M], 0) for group in groups])
    totals, together = _relations(all_, groups, names, len(found), middles_GD)
    slots = [p for p in parts.values() if isinstance(p.place, Place) and p.place.slots is not None]
    book = Book(
        category=category,
        drafted_from=len(found),
        # A placeholder: `write.write_draft` knows the file.
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
    """The parts of all images as columns; `numbers_N` is a part's index within its image."""

    images_N: np.ndarray
    numbers_N: np.ndarray
    vectors_NC: np.ndarray
    places_N2: np.ndarray
    sizes_N: np.ndarray
    # Degrees, NaN for round parts.
    angles_N: np.ndarray
    labs_N3: np.ndarray
    faces_NS: np.ndarray

    @classmethod
    def of(cls, found: Sequence[Parts]) -> "_Parts":
        descriptors = [descriptor for parts in found for descriptor in parts.descriptors]
        if not descriptors:
            return cls(*([np.zeros(0, np.int64)] * 2), *([np.zeros((0, 2))] * 6))
        return cls(
            np.repeat(np.arange(len(found)), [len(parts) for parts in found]),
            np.concatenate([np.arange(len(parts)) for parts in found]),
            np.stack([descriptor.vector_C for descriptor in descriptors]),
            np.concatenate([parts.centres_N2 for parts in found]),
            np.array([descriptor.size for descriptor in descriptors]),
            np.array(
                [
                    np.nan if descriptor.angle is None else descriptor.angle
                    for descriptor in descriptors
                ]
            ),
            np.array([descriptor.lab for descriptor in descriptors]),
            np.stack([descriptor.face_S for descriptor in descriptors]),
        )


def _examples(
    space: Space, points_ND: np.ndarray, all_: _Parts, groups: Sequence[Group]
) -> tuple[Examples, list[np.ndarray]]:
    """The examples of all groups, and per group its members, most typical first."""
    kept: list[np.ndarray] = []
    limits = np.zeros((len(groups), len(VIEWS)), np.float32)
    typical = []
    for index, group in enumerate(groups):
        members = group.members_M
        # A fragment of a part that the finder has cut in two belongs to the kind, but is no example
        # of it: later fragments would look like good parts.
        members = members[no_strays(np.log(all_.sizes_N[members])[:, None])]
        centre_D = np.median(points_ND[members], 0)
        order = np.argsort(np.linalg.norm(points_ND[members] - centre_D, axis=1), kind="stable")
        typical.append(members[order])
        # Keep every n-th member, from typical to odd: the variants of a kind (a pin, a pin with its
        # needle) must all be represented.
        kept.append(members[order][:: -(-len(members) // EXAMPLES)])
        for view in VIEWS:
            columns = columns_of(view, points_ND.shape[1])
            here = points_ND[members][:, columns]
            apart = distances(here, here)
            # The nearest part of another image tells how much normal parts of a kind differ.
            apart[all_.images_N[members][:, None] == all_.images_N[members][None]] = np.inf
            nearest = apart.min(1)
            nearest = nearest[np.isfinite(nearest)]
            limits[index, view] = np.percentile(nearest, 95) if len(nearest) else 0
    # Very uniform groups get at least the median limit of all groups.
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
        count=count_rule(counts_I, free=group.interchangeable),
        place=place_rule(all_.places_N2[members], all_.images_N[members], counts_I),
        size=size_rule(all_.sizes_N[members]),
        colour=colour_rule(all_.labs_N3[members]),
        turn=turn_rule(all_.angles_N[members], all_.faces_NS[members], examples.faces_KS[index]),
    )


def _relations(
    all_: _Parts,
    groups: Sequence[Group],
    names: dict[int, str],
    images: int,
    middles_GD: np.ndarray,
) -> tuple[tuple[Total, ...], tuple[Together, ...]]:
    """Totals of kinds that replace one another, and kinds that occur in equal numbers."""
    counts = {
        index: np.bincount(all_.images_N[groups[index].members_M], minlength=images)
        for index in names
    }
    # Interchangeable kinds whose sum is constant form a total.
    totals: list[Total] = []
    free = [index for index in names if groups[index].interchangeable]
    while free:
        family, sums_I = _family(free, counts, middles_GD)
        if len(family) > 1 and irregularity(sums_I) <= RARE:
            words = tuple(names[index] for index in family)
            count = int(np.bincount(sums_I).argmax())
            totals.append(Total(name=f"one_of_{len(totals) + 1}", parts=words, count=count))
            free = [index for index in free if index not in family]
        else:
            free = free[1:]
    # Two kinds whose counts vary, but equally, belong together.
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
    """The first of these kinds and the ones most similar to it that exclude it, and their total
    count per image, (I,); ends when nearly every image shows one of them."""
    first = free[0]
    family, sums_I = [first], counts[first]
    apart = np.linalg.norm(middles_GD - middles_GD[first], axis=1)
    # The most similar kinds first: what replaces a label is another label.
    for index in sorted(free[1:], key=lambda k: float(apart[k])):
        if (sums_I > 0).mean() >= 1 - RARE:
            break
        if ((sums_I > 0) & (counts[index] > 0)).mean() <= TOGETHER:
            family.append(index)
            sums_I = sums_I + counts[index]
    return family, sums_I
