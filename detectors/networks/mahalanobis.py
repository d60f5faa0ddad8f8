"""Mahalanobis distance of a feature vector from those of the training normals.

    gaussian = Gaussian(dimensions=384)
    gaussian.fit(features_ND, "ledoit_wolf")
    distances_B = gaussian(features_BD)

A category often has fewer normals than the features have dimensions, so the sample covariance is
singular. Ledoit-Wolf shrinkage (2004) makes it invertible, as in PUAD's released code. The other
estimators are for comparison: the pseudo-inverse of the sample covariance ignores directions in
which the normals do not vary, and an anomaly can lie exactly there.

Shapes: N training normals; B batch; D dimensions.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError

Covariance = Literal["ledoit_wolf", "sample_pinv", "sample_ridge"]


class Gaussian(nn.Module):
    """Mean and inverse covariance as float64 buffers; returns distances, or squares without `root`.

    Before `fit` every distance is 0.
    """

    mean_D: Tensor
    precision_DD: Tensor

    def __init__(self, dimensions: int, root: bool = True) -> None:
        super().__init__()
        self.root = root
        self.register_buffer("mean_D", torch.zeros(dimensions, dtype=torch.float64))
        self.register_buffer(
            "precision_DD", torch.zeros(dimensions, dimensions, dtype=torch.float64)
        )

    def fit(self, features_ND: Tensor, covariance: Covariance, ridge: float = 1e-3) -> None:
        """Estimate mean and inverse covariance from features of normals."""
        values_ND = features_ND.detach().double().cpu().numpy()
        if not len(values_ND):
            raise UserError(
                "the Mahalanobis distance needs training normals, but there are none; "
                "generate a version whose training split is not empty"
            )
        # A pseudo-inverse also handles constant features, whose variance is 0.
        precision_DD = np.linalg.pinv(covariance_of(values_ND, covariance, ridge), hermitian=True)
        self.mean_D.copy_(torch.from_numpy(values_ND.mean(0)))
        self.precision_DD.copy_(torch.from_numpy(precision_DD))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Distances (B,), float32."""
        # In float64, because the inverse covariance is ill-conditioned.
        # Squared distance d' P d per row.
        gaps_BD = features_BD.double() - self.mean_D
        # Rounding can make the square of a tiny distance negative.
        squares_B = ((gaps_BD @ self.precision_DD) * gaps_BD).sum(1).clamp_min(0)
        return (squares_B.sqrt() if self.root else squares_B).float()


def covariance_of(values_ND: np.ndarray, covariance: Covariance, ridge: float) -> np.ndarray:
    """The covariance (D, D) by one of three estimators.

    `sample_ridge` adds `ridge` times the mean variance to the diagonal of the sample covariance.
    """
    if covariance == "ledoit_wolf":
        # Imported here: scoring needs no scikit-learn.
        from sklearn.covariance import LedoitWolf

        # Two samples span one direction, and the estimator then shrinks nothing: all others would
        # have no variance, and an anomaly there no distance.
        if len(values_ND) < 3:
            variance = max(float(values_ND.var(0).mean()), 1e-6)
            return variance * np.eye(values_ND.shape[1])
        shrunk: np.ndarray = LedoitWolf(store_precision=False).fit(values_ND).covariance_
        return shrunk
    centred_ND = values_ND - values_ND.mean(0)
    # Divided by N - 1 as in LA-EAD; scikit-learn's estimators divide by N.
    sample_DD = centred_ND.T @ centred_ND / max(len(values_ND) - 1, 1)
    if covariance == "sample_ridge":
        dimensions = len(sample_DD)
        # Relative to the mean variance, so the ridge does not depend on the scale of the features.
        sample_DD += ridge * np.trace(sample_DD) / dimensions * np.eye(dimensions)
    return sample_DD
