"""Recognise parts by their nearest example, in a space whose unit is the noise of normal parts.

The unit is measured: for nearly every part, the nearest part of another image is one of its own
kind, so the differences to such neighbours are the noise of segmentation and description. `Space`
divides by it. A part gets the kind of its nearest example. If it is far from all of them, it is
compared again without size, then without colour, so that a bolt that is too long or a cap of the
wrong colour is still recognised as bolt or cap.

How sure that is says `chances`: a kind has the evidence exp(-d^2 / 2s^2) at the distance d to its
nearest example, and being of no kind the evidence of a part at the reach of all. The scale s is
fitted to the examples themselves, each recognised by the others (temperature scaling: Guo et al.,
ICML 2017), with the smoothed targets of Platt (1999), as a few dozen examples without an error do
not prove that there are none.

Shapes: M examples; K groups of examples; N parts; C length of a descriptor's vector; F features of
the teacher in it; D = PLAIN + KEPT dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from pipeline.part_kinds.space import Space, distances
from pipeline.rulebook.book import Examples
from pipeline.rulebook.descriptors import SIZE_UNIT, PartDescriptor

# Leading dimensions of a vector that are not features: colour 3, texture, size, outline 3.
PLAIN = 8
# Ways to compare: all dimensions, without size, without colour and everything that depends on it.
FULL, ANY_SIZE, ANY_COLOUR = 0, 1, 2
VIEWS = (FULL, ANY_SIZE, ANY_COLOUR)
# A part belongs to a kind up to this multiple of the distance that normal parts have.
REACH = 2.0
# A part that is compared without its size is larger or smaller by this factor at most: a bolt that
# is too long is a bolt, the small hole of a missing one is none.
OTHER_SIZE = 2.1
# Scales of distances that are compared, in units of the distance that normal parts have.
SCALES = np.geomspace(0.1, 2.0, 61)


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a part is: its group of examples (-1 = none), by which view, at what distance.

    `likeness` is the distance to the nearest example of any group with all dimensions, relative to
    the distance that good parts of that group have. `chances_K` are the probabilities of all groups
    in this view; what is left to 1 is that of none.
    """

    group: int
    view: int = FULL
    distance: float = 0.0
    likeness: float = 0.0
    chances_K: np.ndarray = field(default_factory=lambda: np.zeros(0))


def recognise(examples: Examples, descriptors: Sequence[PartDescriptor]) -> list[Recognition]:
    """The recognition of every part; group -1 if no example is near in any view."""
    space = Space(examples.mean_F, examples.basis_FD, examples.scale_D)
    # Without parts there is nothing to stack.
    if not descriptors:
        return []
    points_ND = space.of(np.stack([descriptor.vector_C for descriptor in descriptors]))
    kinds: list[Recognition | None] = [None] * len(descriptors)
    full_NK = np.zeros((len(descriptors), 0))
    likeness_N = np.zeros(len(descriptors))
    for view in VIEWS:
        columns = columns_of(view, points_ND.shape[1])
        apart_NM = distances(points_ND[:, columns], examples.vectors_MD[:, columns])
        limits_M = REACH * examples.limits_KV[examples.kinds_M, view]
        # Groups have limits of their own: the nearest example is the one with the smallest ratio.
        share_NM = apart_NM / limits_M
        if view == FULL:
            likeness_N = REACH * share_NM.min(1)
        if view == ANY_SIZE:
            # Column 4 is the logarithm of the size.
            ratio_NM = np.abs(points_ND[:, 4:5] - examples.vectors_MD[:, 4]) * space.scale_D[4]
            share_NM = np.where(ratio_NM * SIZE_UNIT > np.log(OTHER_SIZE), np.inf, share_NM)
        chances_NK = chances(nearest(REACH * share_NM, examples), scales_of(examples)[view])
        if view == FULL:
            full_NK = chances_NK
        for index in range(len(descriptors)):
            best = int(share_NM[index].argmin())
            if kinds[index] is None and share_NM[index, best] <= 1:
                kinds[index] = Recognition(
                    int(examples.kinds_M[best]), view, float(apart_NM[index, best]),
                    float(likeness_N[index]), chances_NK[index],
                )  # fmt: skip
    return [
        kind or Recognition(-1, likeness=float(likeness_N[index]), chances_K=full_NK[index])
        for index, kind in enumerate(kinds)
    ]


def nearest(ratio_NM: np.ndarray, examples: Examples) -> np.ndarray:
    """The smallest of the relative distances to each group's examples, (N, K)."""
    nearest_NK = np.full((len(ratio_NM), len(examples.limits_KV)), np.inf)
    for group in np.unique(examples.kinds_M).tolist():
        nearest_NK[:, group] = ratio_NM[:, examples.kinds_M == group].min(1)
    return nearest_NK


def chances(nearest_NK: np.ndarray, scale: float) -> np.ndarray:
    """The probability of every group, (N, K); the rest to 1 is that of none of them.

    `nearest_NK` are distances in units of that which good parts have.
    """
    square_NK = (nearest_NK / scale) ** 2
    none = (REACH / scale) ** 2
    # The likeliest has the exponent 0.
    least_N1 = np.minimum(square_NK.min(1, initial=np.inf), none)[:, None]
    evidence_NK = np.exp(-(square_NK - least_N1) / 2)
    return evidence_NK / (evidence_NK.sum(1) + np.exp(-(none - least_N1[:, 0]) / 2))[:, None]


@lru_cache(maxsize=8)
def scales_of(examples: Examples) -> tuple[float, ...]:
    """The scale of distances for every view, fitted to examples that the others recognise."""
    kinds_M, length = examples.kinds_M, examples.vectors_MD.shape[1]
    # The smoothed share of right ones: n + 1 of n + 2.
    count_M = np.bincount(kinds_M)[kinds_M]
    target_M = (count_M + 1) / (count_M + 2)
    found = []
    for view in VIEWS:
        columns = columns_of(view, length)
        points_MD = examples.vectors_MD[:, columns]
        apart_MM = distances(points_MD, points_MD)
        np.fill_diagonal(apart_MM, np.inf)
        nearest_MK = nearest(apart_MM / examples.limits_KV[kinds_M, view], examples)
        likelihood = []
        for scale in SCALES:
            right_M = chances(nearest_MK, scale)[np.arange(len(kinds_M)), kinds_M]
            right_M = right_M.clip(1e-9, 1 - 1e-9)
            terms_M = target_M * np.log(right_M) + (1 - target_M) * np.log(1 - right_M)
            likelihood.append(terms_M.sum())
        found.append(float(SCALES[int(np.argmax(likelihood))]))
    return tuple(found)


def columns_of(view: int, length: int) -> np.ndarray:
    """Indices of the dimensions that a view compares, of `length` in all."""
    columns = np.arange(length)
    # See `descriptors.vector_of`: 0-2 colour, 3 texture, 4 size, 5-7 outline, then features.
    if view == ANY_SIZE:
        return columns[columns != 4]
    if view == ANY_COLOUR:
        return columns[4:PLAIN]
    return columns
