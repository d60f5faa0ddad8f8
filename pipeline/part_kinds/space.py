"""Make vectors of parts comparable: a space whose unit is the noise of normal parts.

For nearly every part the nearest part of another image is one of its own kind, so the differences
to such neighbours are the noise of segmentation, light and description. `Space` keeps the leading
dimensions of a vector, reduces the features behind them by PCA, and divides by that noise.

Shapes: N, M parts; C length of a vector; F features in it; D dimensions of the space.
"""

from dataclasses import dataclass

import numpy as np

# Principal components of the features that are kept.
KEPT = 12
# Nearest parts of other images from which the noise is measured.
NEIGHBOURS = 10
# Smallest noise per dimension, in the units of the vectors: in scenes without any noise the
# division would blow up.
NOISE_FLOOR = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Maps vectors to comparable points.

    `mean_F` and `basis_FD` are a PCA of the features, `scale_D` is the noise per dimension. The
    number of leading dimensions follows from the lengths of both.
    """

    mean_F: np.ndarray
    basis_FD: np.ndarray
    scale_D: np.ndarray

    @classmethod
    def learned(cls, vectors_NC: np.ndarray, images_N: np.ndarray, plain: int) -> "Space":
        """From all parts of the normal images; `images_N` is the image of each part.

        The first `plain` dimensions are taken as they are, the others are features.
        """
        features_NF = vectors_NC[:, plain:].astype(np.float64)
        mean_F = features_NF.mean(0)
        _, _, axes = np.linalg.svd(features_NF - mean_F, full_matrices=False)
        axes = axes[:KEPT]
        # The sign of a principal axis depends on the library: make its largest entry positive.
        axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])[:, None]
        # First without scaling, to find neighbours and from them the noise.
        space = cls(mean_F, axes.T, np.ones(plain + len(axes)))
        points_ND = space.of(vectors_NC)
        apart_NN = distances(points_ND, points_ND)
        apart_NN[images_N[:, None] == images_N[None]] = np.inf
        near = np.argsort(apart_NN, 1, kind="stable")[:, :NEIGHBOURS]
        differences = np.abs(points_ND[:, None] - points_ND[near])
        differences = differences[np.isfinite(np.take_along_axis(apart_NN, near, 1))]
        # Median absolute difference of two draws of a Gaussian -> its standard deviation.
        noise_D = np.median(differences, 0) * 1.4826 / np.sqrt(2) if len(differences) else 1.0
        return cls(mean_F, axes.T, np.maximum(noise_D, NOISE_FLOOR) * np.ones(plain + len(axes)))

    def of(self, vectors_NC: np.ndarray) -> np.ndarray:
        """(N, D) float64 points of vectors."""
        vectors_NC = np.asarray(vectors_NC, np.float64)
        plain = len(self.scale_D) - self.basis_FD.shape[1]
        features = (vectors_NC[:, plain:] - self.mean_F) @ self.basis_FD
        return np.hstack([vectors_NC[:, :plain], features]) / self.scale_D


def distances(points_ND: np.ndarray, others_MD: np.ndarray) -> np.ndarray:
    """Euclidean distances, (N, M) float64."""
    # Rounding can make the expanded square slightly negative.
    square = (
        (points_ND**2).sum(1)[:, None]
        + (others_MD**2).sum(1)[None]
        - 2 * points_ND @ np.asarray(others_MD, np.float64).T
    )
    return np.sqrt(np.maximum(square, 0))
