"""The space in which parts are told apart: looks in units of what good parts of one kind differ by.

That unit is measured, not stated: the nearest part of another image is, for nearly every part, one
of its own kind, so the differences to those neighbours are the noise of finding and describing.
`Space` divides by it. A part is then named by its nearest example; when it is far from all of them
it is compared again without its size, then without its colour, so that a bolt too long or a cap of
the wrong colour is still a bolt and a cap.

Shapes: M examples; N parts; C vector of a look; F features of the teacher in it; D = 8 + KEPT.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.rulebook.book import Examples
from pipeline.rulebook.descriptors import PartDescriptor

PLAIN = 8
"""Leading numbers of a look's vector that are not features: colour 3, texture, size, outline 3."""
KEPT = 12
"""Principal components of the teacher's features."""
NEIGHBOURS = 10
NOISE_FLOOR = 0.1
"""Smallest noise per number, in the units of `looks`: scenes without any noise must not blow up."""
FULL, ANY_SIZE, ANY_COLOUR = 0, 1, 2
VIEWS = (FULL, ANY_SIZE, ANY_COLOUR)
"""Ways to compare: with all numbers, without size, without colour and what depends on it."""
REACH = 2.0
"""A part is of a kind up to this multiple of the distance that good parts have."""


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """How a look's vector becomes comparable; see `Examples`."""

    mean_F: np.ndarray
    basis_FD: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def learned(cls, vectors_NC: np.ndarray, images_N: np.ndarray) -> "Space":
        """From all parts of the good images; `images_N` says which image each is of."""
        features_NF = vectors_NC[:, PLAIN:].astype(np.float64)
        mean_F = features_NF.mean(0)
        _, _, axes = np.linalg.svd(features_NF - mean_F, full_matrices=False)
        axes = axes[:KEPT]
        # The sign of a principal axis is a matter of taste of the library: fix it.
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        space = cls(mean_F, axes.T, np.ones(PLAIN + len(axes)))
        points_ND = space.of(vectors_NC)
        apart_NN = distances(points_ND, points_ND)
        apart_NN[images_N[:, None] == images_N[None]] = np.inf
        near = np.argsort(apart_NN, 1, kind="stable")[:, :NEIGHBOURS]
        differences = np.abs(points_ND[:, None] - points_ND[near])
        differences = differences[np.isfinite(np.take_along_axis(apart_NN, near, 1))]
        # Median difference of two draws of a Gaussian -> its deviation.
        noise_D = np.median(differences, 0) * 1.4826 / np.sqrt(2) if len(differences) else 1.0
        return cls(mean_F, axes.T, np.maximum(noise_D, NOISE_FLOOR) * np.ones(PLAIN + len(axes)))

    def of(self, vectors_NC: np.ndarray) -> np.ndarray:
        """(N, D) float64."""
        vectors_NC = np.asarray(vectors_NC, np.float64)
        features = (vectors_NC[:, PLAIN:] - self.mean_F) @ self.basis_FD
        return np.hstack([vectors_NC[:, :PLAIN], features]) / self.scale_D

    def of_looks(self, looks: Sequence[PartDescriptor]) -> np.ndarray:
        """(N, D) float64 of described parts."""
        if not looks:
            return np.zeros((0, len(self.scale_D)))
        return self.of(np.stack([look.vector_C for look in looks]))


@dataclass(frozen=True, slots=True)
class Kind:
    """What a part is: the group of examples (-1 = none), how it was recognised, how far off."""

    group: int
    view: int = FULL
    distance: float = 0.0


def recognise(examples: Examples, looks: Sequence[PartDescriptor]) -> list[Kind]:
    """The kind of every part; -1 for one that is like no example, even without size or colour."""
    points_ND = Space(examples.mean_F, examples.basis_FD, examples.scale_D).of_looks(looks)
    kinds: list[Kind | None] = [None] * len(looks)
    for view in VIEWS:
        columns = columns_of(view, points_ND.shape[1])
        apart_NM = distances(points_ND[:, columns], examples.vectors_MD[:, columns])
        limits_M = REACH * examples.limits_KV[examples.kinds_M, view]
        share_NM = apart_NM / limits_M
        for index in range(len(looks)):
            best = int(share_NM[index].argmin())
            if kinds[index] is None and share_NM[index, best] <= 1:
                kinds[index] = Kind(int(examples.kinds_M[best]), view, float(apart_NM[index, best]))
    return [kind or Kind(-1) for kind in kinds]


def columns_of(view: int, length: int) -> np.ndarray:
    """Which numbers a view compares."""
    columns = np.arange(length)
    if view == ANY_SIZE:
        return columns[columns != 4]
    if view == ANY_COLOUR:
        return columns[4:PLAIN]
    return columns


def distances(points_ND: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """Euclidean, (N, M) float64."""
    square = (
        (points_ND**2).sum(1)[:, None]
        + (others_MD**2).sum(1)[None]
        - 2 * points_ND @ np.asarray(others_MD, np.float64).T
    )
    return np.sqrt(np.maximum(square, 0))
