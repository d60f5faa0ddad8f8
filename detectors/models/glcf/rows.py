"""All levels of an image as one row of numbers, because the cache of features keeps one tensor.

Shapes: B batch; C channels and h, w cells of a level; N numbers of all levels.
"""

import math

import torch
from torch import Tensor

from detectors.networks.pyramids import STRIDES, Channels, Levels


def as_rows(levels: Levels) -> Tensor:
    """All levels of an image as one row (B, N, 1, 1)."""
    return torch.cat([level_BChw.flatten(1) for level_BChw in levels], 1)[:, :, None, None]


def as_levels(rows_BN11: Tensor, channels: Channels, size: int) -> Levels:
    """The levels that `as_rows` joined, for images of `size` pixels."""
    shapes = [
        (c, size // stride, size // stride) for c, stride in zip(channels, STRIDES, strict=True)
    ]
    parts = rows_BN11.flatten(1).split([math.prod(shape) for shape in shapes], 1)
    f0, f1, f2, f3 = (
        part.unflatten(1, shape).contiguous(memory_format=torch.channels_last)
        for part, shape in zip(parts, shapes, strict=True)
    )
    return f0, f1, f2, f3
