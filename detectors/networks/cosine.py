"""Cosine distances between student and teacher features, and the maps and scores made of them.

DeSTSeg (Zhang et al., CVPR 2023) compares features this way, and SemRec too.

Shapes: B batch; C channels; h, w cells of a level; H, W image. Everything is computed in float32:
in half precision the norms of features near zero vanish.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# How the maps of the levels are combined into one.
Fusion = Literal["prod", "mean", "sum"]

# Added to squared norms, so that features that are all zero have a finite gradient.
EPSILON = 1e-6
# Side in pixels of the maps for which the number of top pixels is given.
TOP_SIDE = 256


def unit_length(features_BChw: Tensor) -> Tensor:
    """Features with unit L2 norm along the channels; zeros stay zeros."""
    features = features_BChw.float()
    return features * torch.rsqrt(features.square().sum(1, keepdim=True) + EPSILON)


def cosine_distance(features_BChw: Tensor, target_BChw: Tensor) -> Tensor:
    """1 minus the cosine similarity at each cell, (B, h, w), from 0 to 2."""
    return 1 - (unit_length(features_BChw) * unit_length(target_BChw)).sum(1)


def fuse_levels(maps: Sequence[Tensor], size: int, fusion: Fusion) -> Tensor:
    """Maps (B, h, w) of the levels, finest first, combined into one of (B, size, size).

    They are combined on the cells of the finest level and then upsampled, as in DeSTSeg's released
    code: a product of maps at image size would have other peaks.
    """
    finest = maps[0].shape[1:]
    same = [F.interpolate(map_Bhw[:, None], finest, mode="bilinear") for map_Bhw in maps]
    # The product is high only where all levels disagree, which suppresses isolated peaks.
    fused_B1hw = torch.stack(same).prod(0) if fusion == "prod" else torch.stack(same).sum(0)
    if fusion == "mean":
        fused_B1hw = fused_B1hw / len(same)
    return F.interpolate(fused_B1hw, (size, size), mode="bilinear")[:, 0]


def top_mean(maps_BHW: Tensor, pixels: int, size: int) -> Tensor:
    """Image scores (B,): the mean of the highest of `size` x `size` pixels (T = 100 in DeSTSeg).

    `pixels` is their number at 256 x 256, scaled here to the area of the map.
    """
    # From the arguments, not from the tensor's shape: an ONNX export would trace the arithmetic.
    count = min(max(1, round(pixels * size**2 / TOP_SIDE**2)), size**2)
    return maps_BHW.float().flatten(1).topk(count, 1).values.mean(1)
