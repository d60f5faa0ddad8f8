"""Fusion of GLCF's difference maps: smoothing, weights, and the search for weights.

    weight_K = stated_weights((5, 1), (1, 3, 6))                       # branches, scales
    fused_BHW = (weight_K.view(-1, 1, 1) * maps_BKHW).sum(1)

The image score is the standard deviation of the fused map. It equals sqrt(w' C w), where C is the
covariance between the maps of one image over its pixels, so a search over weights w computes the
maps only once.

Shapes: B batch; N images; K maps, branch times level; H, W image.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.metrics.separation import separation

# The search tries all weights that are multiples of a quarter.
QUARTERS = 4


def gaussian_smoothed(maps_BKHW: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of (B, K, H, W), as SciPy's: cut off at 4 sigma, border mirrored."""
    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, device=maps_BKHW.device, dtype=maps_BKHW.dtype)
    # One-dimensional kernel, normalised to sum 1, the same for all maps.
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(maps_BKHW.shape[1], 1, -1)
    padded = F.pad(maps_BKHW, (reach, reach, reach, reach), mode="reflect")
    # A Gaussian is separable: rows, then columns.
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=maps_BKHW.shape[1])
    return F.conv2d(rows, kernel.unsqueeze(3), groups=maps_BKHW.shape[1])


def stated_weights(branches: Sequence[float], scales: Sequence[float]) -> np.ndarray:
    """Branch times scale weights (K,), float64, summing to 1."""
    # Branch-major order, as the maps are concatenated.
    weight_K = np.outer(branches, scales).ravel().astype(np.float64)
    return weight_K / weight_K.sum()


def candidate_weights(branches: int, scales: int) -> list[np.ndarray]:
    """All weights (K,) in quarters; branch weights sum to 1, and so do scale weights."""
    return [
        stated_weights(of_branches, of_scales)
        for of_branches in _quarters(branches)
        for of_scales in _quarters(scales)
    ]


def map_covariances(maps_BKHW: Tensor) -> np.ndarray:
    """Covariance between the maps of each image over its pixels, (B, K, K) float64."""
    flat = maps_BKHW.flatten(2).double()
    # In float64, because the mean can be large compared with the deviation.
    flat = flat - flat.mean(2, keepdim=True)
    return (flat @ flat.transpose(1, 2) / flat.shape[2]).cpu().numpy()


def scores_of(weight_K: np.ndarray, covariance_NKK: np.ndarray) -> np.ndarray:
    """(N,) image scores under these weights."""
    # Rounding can make the variance of a constant map negative.
    return np.sqrt(np.einsum("k,nkl,l->n", weight_K, covariance_NKK, weight_K).clip(0))


def best_weights(
    weights: Sequence[np.ndarray],
    normal_NKK: np.ndarray,
    pair_MKK: np.ndarray,
    labels_M: np.ndarray,
) -> np.ndarray:
    """The weights that separate anomalies (label 1) best; the first of equally good ones."""
    # None without anomalies: then the first weights stay.
    found = [
        separation(scores_of(weight_K, normal_NKK), scores_of(weight_K, pair_MKK), labels_M) or 0.0
        for weight_K in weights
    ]
    return weights[int(np.argmax(found))]


def _quarters(count: int) -> list[tuple[int, ...]]:
    """All ways to distribute four quarters among `count` weights."""
    shares = product(range(QUARTERS + 1), repeat=count)
    return [share for share in shares if sum(share) == QUARTERS]
