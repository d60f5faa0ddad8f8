"""DeSTSeg's denoising student: rebuilds the teacher's features of the clean image.

Zhang et al., CVPR 2023. A randomly initialised ResNet-18 encodes down to stride 32, then four
residual stages decode without skip connections: all information passes the bottleneck, which has no
room for small corruptions.

Shapes: B batch; H, W image, multiples of 32; 3 colour (RGB); C channels; h, w cells of a level.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.backbone import BasicBlock, Levels, Trunk, residual_stage


class Decoder(nn.Module):
    """From features of stride 16 through a bottleneck of stride 32 to all three levels.

    With the channels of ResNet-18 it has 21 882 240 parameters, 8 393 728 of them in layer4. Its
    outputs are never negative, as a ResNet's features; `signed` lets them be.
    """

    def __init__(self, channels: tuple[int, int, int], signed: bool = False) -> None:
        super().__init__()
        fine, middle, coarse = channels
        deep = 2 * coarse
        # The encoder's last stage belongs to the decoder here, so a frozen trunk that ends at
        # layer3 can serve as encoder.
        self.layer4 = residual_stage(coarse, deep, stride=2)
        self.stage4 = residual_stage(deep, deep)
        self.stage3 = residual_stage(deep, coarse)
        self.stage2 = residual_stage(coarse, middle)
        self.stage1 = residual_stage(middle, fine)
        self.ends = ends(channels, signed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        begin_as_identity(self.layer4)

    def forward(self, coarse_BChw: Tensor) -> Levels:
        """Features (B, C, h, w) of stride 16 to three levels, fine to coarse."""
        deep = self.stage4(self.layer4(coarse_BChw))
        coarse = self.stage3(upsample_2x(deep))
        middle = self.stage2(upsample_2x(coarse))
        fine = self.stage1(upsample_2x(middle))
        return self.ends[0](fine), self.ends[1](middle), self.ends[2](coarse)


class Student(nn.Module):
    """A randomly initialised encoder and the decoder: normalised RGB to three levels.

    With the channels of ResNet-18 it has 24 665 024 parameters.
    """

    def __init__(
        self, channels: tuple[int, int, int] = (64, 128, 256), signed: bool = False
    ) -> None:
        super().__init__()
        # Stem to layer3; layer4 is part of the decoder.
        self.trunk = Trunk(channels)
        begin_as_identity(self.trunk)
        self.decoder = Decoder(channels, signed)

    def forward(self, images_B3HW: Tensor) -> Levels:
        """Levels of stride 4, 8 and 16, with the channels of the teacher's."""
        return self.decoder(self.trunk(images_B3HW)[2])


def ends(channels: tuple[int, int, int], signed: bool) -> nn.ModuleList:
    """The last layer of each level: a linear one where features can be negative, else nothing.

    Residual stages end in a ReLU, as a ResNet's levels do; EfficientNet's levels are linear.
    """
    return nn.ModuleList(nn.Conv2d(c, c, 1) if signed else nn.Identity() for c in channels)


def begin_as_identity(encoder: nn.Module) -> None:
    """Set the last batch-norm weight of every residual block to 0, so it starts as its shortcut.

    DeSTSeg's released code builds the encoder with timm, which does so; its decoder and its
    segmentation start from ones.
    """
    for module in encoder.modules():
        if isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)


def upsample_2x(features_BChw: Tensor) -> Tensor:
    """Features (B, C, 2h, 2w), bilinear."""
    return F.interpolate(features_BChw, scale_factor=2.0, mode="bilinear")
