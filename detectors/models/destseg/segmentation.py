"""DeSTSeg's second half: a small network that draws the damage from how two nets disagree.

Zhang et al., CVPR 2023. It sees, cell by cell, the product of teacher and student features of
length one, negated: the summands of the cosine distance before they are summed up. Two residual
blocks, then context at several ranges at once (ASPP), then one number per cell.

Shapes: B batch; C channels of all levels together; h, w cells of the finest level, stride 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.cosine import unit
from pipeline.models.backbone import residual_stage

DILATIONS = (6, 12, 18)
GAMMA = 4
"""How strongly the focal loss turns away from cells that are right already."""
CERTAIN = 1e-6
"""Probabilities are kept so far from 0 and 1 before their logarithm is taken."""


class Segmentation(nn.Module):
    """Disagreements (B, C, h, w) to logits of damage (B, h, w); 7 706 369 parameters at C = 448."""

    def __init__(self, inputs: int = 448, width: int = 256) -> None:
        super().__init__()
        self.blocks = residual_stage(inputs, width)
        self.whole = convolution(width, width, 1)
        self.ranges = nn.ModuleList(convolution(width, width, 3, range_) for range_ in DILATIONS)
        self.merge = convolution(width * (1 + len(DILATIONS)), width, 3)
        self.head = nn.Sequential(convolution(width, width, 3), nn.Conv2d(width, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, products_BChw: Tensor) -> Tensor:
        features = self.blocks(products_BChw)
        whole = self.whole(features.mean((2, 3), keepdim=True)).expand_as(features)
        context = [whole, *(range_(features) for range_ in self.ranges)]
        return self.head(self.merge(torch.cat(context, 1)))[:, 0]

    def top(self) -> nn.Module:
        """What lies above the residual blocks and learns slower, as one module."""
        return nn.ModuleList([self.whole, self.ranges, self.merge, self.head])


def products(made: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w): minus the products of unit features, all levels at the size of the finest."""
    size = target[0].shape[2:]
    levels = [-unit(one) * unit(other) for one, other in zip(made, target, strict=True)]
    large = [F.interpolate(level, size, mode="bilinear") for level in levels[1:]]
    return torch.cat([levels[0], *large], 1)


def focal(logits_Bhw: Tensor, truth_Bhw: Tensor) -> Tensor:
    """The focal loss (Lin et al., ICCV 2017) with gamma 4 and no class weight; `truth` is bool."""
    share = torch.sigmoid(logits_Bhw.float())
    right = torch.where(truth_Bhw, share, 1 - share).clamp(CERTAIN, 1 - CERTAIN)
    return -((1 - right) ** GAMMA * right.log()).mean()


def convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, with batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
