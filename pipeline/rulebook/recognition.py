"""Recognise parts by their nearest example, in a space whose unit is the noise of normal parts.

The unit is measured: for nearly every part, the nearest part of another image is one of its own
kind, so the differences to such neighbours are the noise of segmentation and description. `Space`
divides by it. A part gets the kind of its nearest example. If it is far from all of them, it is
compared again without size, then without colour, so that a bolt that is too long or a cap of the
wrong colour is still recognised as bolt or cap.

Shapes: M examples; N parts; C length of a descriptor's vector; F features of the teacher in it;
D = PLAIN + KEPT dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a part is: its group of examples (-1 = none), by which view, at what distance.

    `likeness` is the distance to the nearest example of any group with all dimensions, relative to
    the distance that good parts of that group have.
    """

    group: int
    view: int = FULL
    distance: float = 0.0
    likeness: float = 0.0


def recognise(examples: Examples, descriptors: Sequence[PartDescriptor]) -> list[Recognition]:
    """The recognition of every part; group -1 if no example is near in any view."""
    space = Space(examples.mean_F, examples.basis_FD, examples.scale_D)
    # Without parts there is nothing to stack.
    if not descriptors:
        return []
    points_ND = space.of(np.stack([descriptor.vector_C for descriptor in descriptors]))
    kinds: list[Recognition | None] = [None] * len(descriptors)
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
        for index in range(len(descriptors)):
            best = int(share_NM[index].argmin())
            if kinds[index] is None and share_NM[index, best] <= 1:
                kinds[index] = Recognition(
                    int(examples.kinds_M[best]), view, float(apart_NM[index, best]),
                    float(likeness_N[index]),
                )  # fmt: skip
    return [
        kind or Recognition(-1, likeness=float(likeness))
        for kind, likeness in zip(kinds, likeness_N, strict=True)
    ]


def columns_of(view: int, length: int) -> np.ndarray:
    """Indices of the dimensions that a view compares, of `length` in all."""
    columns = np.arange(length)
    # See `descriptors.vector_of`: 0-2 colour, 3 texture, 4 size, 5-7 outline, then features.
    if view == ANY_SIZE:
        return columns[columns != 4]
    if view == ANY_COLOUR:
        return columns[4:PLAIN]
    return columns
