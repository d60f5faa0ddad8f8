"""How GLCF's difference maps become one: smoothing, weights, and the search for weights.

    weight_K = stated((5, 1), (1, 3, 6))                       # branches, scales
    fused_BHW = (weight_K.view(-1, 1, 1) * maps_BKHW).sum(1)

The image score is the standard deviation of the fused map. It is the root of w' C w with C the
covariance of the picture's own maps over its pixels, so a search over weights needs the maps once.

Shapes: B batch; N images; K maps, branch times level; H, W picture.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.metrics.image import image_metrics

QUARTERS = 4
"""Weights that are searched are whole numbers of quarters."""


def smoothed(maps_BKHW: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing over 4 sigma to each side, mirrored at the border."""
    reach = int(4 * sigma + 0.5)
    places = torch.arange(-reach, reach + 1, device=maps_BKHW.device, dtype=maps_BKHW.dtype)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(maps_BKHW.shape[1], 1, -1)
    padded = F.pad(maps_BKHW, (reach, reach, reach, reach), mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=maps_BKHW.shape[1])
    return F.conv2d(rows, kernel.unsqueeze(3), groups=maps_BKHW.shape[1])


def stated(branches: Sequence[float], scales: Sequence[float]) -> np.ndarray:
    """Branch times scale weights (K,), float64, summing to 1."""
    weight_K = np.outer(branches, scales).ravel().astype(np.float64)
    return weight_K / weight_K.sum()


def candidates(branches: int, scales: int) -> list[np.ndarray]:
    """All weights in quarters: those of the branches sum to 1, and so do those of the scales."""
    return [
        stated(of_branches, of_scales)
        for of_branches in _quarters(branches)
        for of_scales in _quarters(scales)
    ]


def covariances(maps_BKHW: Tensor) -> np.ndarray:
    """The covariance between the maps of each picture over its pixels, (B, K, K) float64."""
    flat = maps_BKHW.flatten(2).double()
    flat = flat - flat.mean(2, keepdim=True)
    return (flat @ flat.transpose(1, 2) / flat.shape[2]).cpu().numpy()


def scores_of(weight_K: np.ndarray, covariance_NKK: np.ndarray) -> np.ndarray:
    """(N,) image scores under these weights."""
    return np.sqrt(np.einsum("k,nkl,l->n", weight_K, covariance_NKK, weight_K).clip(0))


def chosen(
    weights: Sequence[np.ndarray], covariance_NKK: np.ndarray, labels_N: np.ndarray
) -> np.ndarray:
    """The weights with the highest image AUROC; among equal ones the first."""
    reached = [
        image_metrics(labels_N, scores_of(weight_K, covariance_NKK)).image_auroc or 0.0
        for weight_K in weights
    ]
    return weights[int(np.argmax(reached))]


def _quarters(count: int) -> list[tuple[int, ...]]:
    shares = product(range(QUARTERS + 1), repeat=count)
    return [share for share in shares if sum(share) == QUARTERS]
