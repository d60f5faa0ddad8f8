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

from pipeline.rulebook.book import Examples
from pipeline.rulebook.descriptors import PartDescriptor

# Leading dimensions of a vector that are not features: colour 3, texture, size, outline 3.
PLAIN = 8
# Principal components of the teacher's features that are kept.
KEPT = 12
# Nearest parts of other images from which the noise is measured.
NEIGHBOURS = 10
# Smallest noise per dimension, in the units of `descriptors`: in scenes without any noise the
# division would blow up.
NOISE_FLOOR = 0.1
# Ways to compare: all dimensions, without size, without colour and everything that depends on it.
FULL, ANY_SIZE, ANY_COLOUR = 0, 1, 2
VIEWS = (FULL, ANY_SIZE, ANY_COLOUR)
# A part belongs to a kind up to this multiple of the distance that normal parts have.
REACH = 2.0


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Maps descriptor vectors to comparable points.

    `mean_F` and `basis_FD` are a PCA of the features, `scale_D` is the noise per dimension.
    """

    mean_F: np.ndarray
    basis_FD: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def learned(cls, vectors_NC: np.ndarray, images_N: np.ndarray) -> "Space":
        """From all parts of the normal images; `images_N` is the image of each part."""
        features_NF = vectors_NC[:, PLAIN:].astype(np.float64)
        mean_F = features_NF.mean(0)
        _, _, axes = np.linalg.svd(features_NF - mean_F, full_matrices=False)
        axes = axes[:KEPT]
        # The sign of a principal axis depends on the library: make its largest entry positive.
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        # First without scaling, to find neighbours and from them the noise.
        space = cls(mean_F, axes.T, np.ones(PLAIN + len(axes)))
        points_ND = space.of(vectors_NC)
        apart_NN = distances(points_ND, points_ND)
        apart_NN[images_N[:, None] == images_N[None]] = np.inf
        near = np.argsort(apart_NN, 1, kind="stable")[:, :NEIGHBOURS]
        differences = np.abs(points_ND[:, None] - points_ND[near])
        differences = differences[np.isfinite(np.take_along_axis(apart_NN, near, 1))]
        # Median absolute difference of two draws of a Gaussian -> its standard deviation.
        noise_D = np.median(differences, 0) * 1.4826 / np.sqrt(2) if len(differences) else 1.0
        return cls(mean_F, axes.T, np.maximum(noise_D, NOISE_FLOOR) * np.ones(PLAIN + len(axes)))

    def of(self, vectors_NC: np.ndarray) -> np.ndarray:
        """(N, D) float64 points of descriptor vectors."""
        vectors_NC = np.asarray(vectors_NC, np.float64)
        features = (vectors_NC[:, PLAIN:] - self.mean_F) @ self.basis_FD
        return np.hstack([vectors_NC[:, :PLAIN], features]) / self.scale_D

    def of_descriptors(self, descriptors: Sequence[PartDescriptor]) -> np.ndarray:
        """(N, D) float64 points of descriptors."""
        if not descriptors:
            return np.zeros((0, len(self.scale_D)))
        return self.of(np.stack([descriptor.vector_C for descriptor in descriptors]))


@dataclass(frozen=True, slots=True)
class Recognition:
    """What a part is: its group of examples (-1 = none), by which view, and at what distance."""

    group: int
    view: int = FULL
    distance: float = 0.0


def recognise(examples: Examples, descriptors: Sequence[PartDescriptor]) -> list[Recognition]:
    """The recognition of every part; group -1 if no example is near in any view."""
    points_ND = Space(examples.mean_F, examples.basis_FD, examples.scale_D).of_descriptors(
        descriptors
    )
    kinds: list[Recognition | None] = [None] * len(descriptors)
    for view in VIEWS:
        columns = columns_of(view, points_ND.shape[1])
        apart_NM = distances(points_ND[:, columns], examples.vectors_MD[:, columns])
        limits_M = REACH * examples.limits_KV[examples.kinds_M, view]
        # Groups have limits of their own: the nearest example is the one with the smallest ratio.
        share_NM = apart_NM / limits_M
        for index in range(len(descriptors)):
            best = int(share_NM[index].argmin())
            if kinds[index] is None and share_NM[index, best] <= 1:
                kinds[index] = Recognition(
                    int(examples.kinds_M[best]), view, float(apart_NM[index, best])
                )
    return [kind or Recognition(-1) for kind in kinds]


def columns_of(view: int, length: int) -> np.ndarray:
    """Indices of the dimensions that a view compares, of `length` in all."""
    columns = np.arange(length)
    # See `descriptors.vector_of`: 0-2 colour, 3 texture, 4 size, 5-7 outline, then features.
    if view == ANY_SIZE:
        return columns[columns != 4]
    if view == ANY_COLOUR:
        return columns[4:PLAIN]
    return columns


def distances(points_ND: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """Euclidean distances, (N, M) float64."""
    # Rounding can make the expanded square slightly negative.
    square = (
        (points_ND**2).sum(1)[:, None]
        + (others_MD**2).sum(1)[None]
        - 2 * points_ND @ np.asarray(others_MD, np.float64).T
    )
    return np.sqrt(np.maximum(square, 0))
