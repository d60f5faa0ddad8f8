"""DeSTSeg's segmentation network: finds the corruption in the disagreement of two networks.

Zhang et al., CVPR 2023. Its input at each cell is the negated element-wise product of the
unit-length teacher and student features: the summands of the cosine similarity. Two residual blocks
are followed by atrous spatial pyramid pooling (ASPP) and one logit per cell.

Shapes: B batch; C channels of all levels together; h, w cells of the finest level, stride 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.cosine import unit_length
from pipeline.models.backbone import residual_stage

# Dilations of the ASPP branches, in cells.
DILATIONS = (6, 12, 18)
# Focusing parameter of the focal loss: higher values weigh well-classified cells less.
GAMMA = 4


class Segmentation(nn.Module):
    """Products (B, C, h, w) to logits of corruption (B, h, w); 7 706 369 parameters at C = 448."""

    def __init__(self, inputs: int = 448, width: int = 256) -> None:
        super().__init__()
        self.blocks = residual_stage(inputs, width)
        # The ASPP branches: global mean (`whole`), then one convolution per dilation.
        self.whole = convolution(width, width, 1)
        self.ranges = nn.ModuleList(convolution(width, width, 3, range_) for range_ in DILATIONS)
        self.merge = convolution(width * (1 + len(DILATIONS)), width, 3)
        self.head = nn.Sequential(convolution(width, width, 3), nn.Conv2d(width, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, products_BChw: Tensor) -> Tensor:
        features = self.blocks(products_BChw)
        # The mean over all cells, repeated at every cell.
        whole = self.whole(features.mean((2, 3), keepdim=True)).expand_as(features)
        context = [whole, *(range_(features) for range_ in self.ranges)]
        return self.head(self.merge(torch.cat(context, 1)))[:, 0]

    def top(self) -> nn.Module:
        """The layers above the residual blocks, as one module; they have a lower learning rate."""
        return nn.ModuleList([self.whole, self.ranges, self.merge, self.head])


def products(decoded: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """(B, C, h, w): negated products of unit-length features, all levels on the finest grid."""
    size = target[0].shape[2:]
    levels = [
        -unit_length(one) * unit_length(other) for one, other in zip(decoded, target, strict=True)
    ]
    large = [F.interpolate(level, size, mode="bilinear") for level in levels[1:]]
    return torch.cat([levels[0], *large], 1)


def focal(logits_Bhw: Tensor, truth_Bhw: Tensor) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) with gamma 4 and without class weight; `truth` is bool."""
    # Positive where the cell is classified as it should be. The logarithm of the probability is
    # taken from the logit: a cell that is wrong with certainty keeps its gradient.
    right_Bhw = torch.where(truth_Bhw, logits_Bhw, -logits_Bhw).float()
    return -(torch.sigmoid(-right_Bhw) ** GAMMA * F.logsigmoid(right_Bhw)).mean()


def convolution(inputs: int, outputs: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, with batch norm and ReLU."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
