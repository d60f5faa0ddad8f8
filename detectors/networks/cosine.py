"""How far features point away from a teacher's, and the maps and scores made of that.

Shapes: B batch; C channels; h, w cells of a level; H, W picture. Everything is float32, whatever
comes in: in half precision the norms of nearly empty features are lost.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Fusion = Literal["prod", "mean", "sum"]
"""How the maps of the levels become one."""

EPSILON = 1e-6
"""Added to squared norms, so features that are all zero have a direction (none) and a gradient."""
TOP_SIDE = 256
"""Side in pixels of the maps for which the number of top pixels is stated."""


def unit(features_BChw: Tensor) -> Tensor:
    """Features of length one along the channels; zeros stay zeros."""
    features = features_BChw.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + EPSILON)


def distance(features_BChw: Tensor, target_BChw: Tensor) -> Tensor:
    """1 - cosine of each cell, (B, h, w)."""
    return 1 - (unit(features_BChw) * unit(target_BChw)).sum(1)


def fused(maps: Sequence[Tensor], size: int, fusion: Fusion) -> Tensor:
    """Maps (B, h, w) of the levels enlarged to (B, size, size) and made one."""
    large = [
        F.interpolate(map_Bhw[:, None], (size, size), mode="bilinear")[:, 0] for map_Bhw in maps
    ]
    if fusion == "prod":
        return torch.stack(large).prod(0)
    total = torch.stack(large).sum(0)
    return total / len(large) if fusion == "mean" else total


def top_mean(maps_BHW: Tensor, pixels: int, size: int) -> Tensor:
    """The image scores: the mean of the highest of `size` x `size` pixels.

    Their number is stated at 256 x 256; it must not come from the tensor, or an export would keep
    the arithmetic of shapes.
    """
    count = min(max(1, round(pixels * size**2 / TOP_SIDE**2)), size**2)
    return maps_BHW.float().flatten(1).topk(count, 1).values.mean(1)
