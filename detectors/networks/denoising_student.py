"""DeSTSeg's student: an encoder and decoder that rebuild the teacher's features of a clean picture.

Zhang et al., CVPR 2023. A ResNet-18 that starts from random numbers, down to a stride of 32, then
four residual stages up again without skip connections: what is to come out has to pass the narrow
middle, where small damage does not fit through.

Shapes: B batch; H, W picture, multiples of 32; 3 colour (RGB); C channels; h, w cells of a level.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbone import Levels, Trunk, residual_stage


class Decoder(nn.Module):
    """From features of stride 16 through a narrow middle of stride 32 to all three levels.

    With the channels of ResNet-18: 21 882 240 parameters, 8 393 728 of them its layer4.
    """

    def __init__(self, channels: tuple[int, int, int]) -> None:
        super().__init__()
        fine, middle, coarse = channels
        deep = 2 * coarse
        self.layer4 = residual_stage(coarse, deep, stride=2)
        self.stage4 = residual_stage(deep, deep)
        self.stage3 = residual_stage(deep, coarse)
        self.stage2 = residual_stage(coarse, middle)
        self.stage1 = residual_stage(middle, fine)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, coarse_BChw: Tensor) -> Levels:
        """Features (B, C, h, w) of stride 16 to three levels, fine to coarse, never negative."""
        deep = self.stage4(self.layer4(coarse_BChw))
        coarse = self.stage3(doubled(deep))
        middle = self.stage2(doubled(coarse))
        return self.stage1(doubled(middle)), middle, coarse


class Student(nn.Module):
    """An encoder of its own, from random numbers, and a decoder: normalised RGB to three levels.

    With the channels of ResNet-18 it has 24 665 024 parameters.
    """

    def __init__(self, channels: tuple[int, int, int] = (64, 128, 256)) -> None:
        super().__init__()
        self.trunk = Trunk(channels)
        self.decoder = Decoder(channels)

    def forward(self, images_B3HW: Tensor) -> Levels:
        return self.decoder(self.trunk(images_B3HW)[2])


def doubled(features_BChw: Tensor) -> Tensor:
    """Twice as high and wide, bilinear."""
    return F.interpolate(features_BChw, scale_factor=2.0, mode="bilinear")
