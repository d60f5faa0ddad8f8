"""SemRec's U-Net, which rebuilds objects: five poolings down, three decoder steps up to stride 4.

After Ronneberger et al. (MICCAI 2015), with batch norm and bilinear upsampling. The SemRec paper
gives neither depth nor widths. Five poolings leave a decoder step at stride 16, the teacher's
coarsest level; the decoder stops at stride 4, its finest, and returns one map per level.

Shapes: B batch; H, W image, multiples of 32; C channels; h, w cells of a level.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.denoising_student import ends, upsample_2x
from pipeline.models.backbone import Levels

# Encoder maps passed to the decoder: of strides 4, 8, 16; of 8 and 16; none.
Skips = Literal["all", "deep", "none"]
# Stride of the first encoder.
Stride = Literal[1, 2]


class UNet(nn.Module):
    """Encoder widths are 1, 2, 4, 8, 16, 16 times `base`; decoder widths are `outputs`.

    `outputs` are ordered from fine to coarse. With base 32 and outputs 64, 128, 256 there are
    13 307 360 parameters. Outputs end in a ReLU, as a ResNet's features do, or with `signed` in a
    linear layer. With stride 2 the first encoder is left out, and the second sees 2 x 2 pixels as
    twelve channels: two thirds of the time.
    """

    def __init__(
        self,
        base: int = 32,
        outputs: tuple[int, int, int] = (64, 128, 256),
        skips: Skips = "all",
        signed: bool = False,
        stride: Stride = 1,
    ) -> None:
        super().__init__()
        self.stride = stride
        widths = [base * factor for factor in (1, 2, 4, 8, 16, 16)]
        # The first encoder keeps the resolution; each of the others pools first.
        layers = pairwise((3 * stride**2, *widths[stride - 1 :]))
        self.encoders = nn.ModuleList(double_conv(before, width) for before, width in layers)
        fine, middle, coarse = outputs
        # Number of decoder steps with a skip connection, counted from the coarsest.
        self.skips = {"all": 3, "deep": 2, "none": 0}[skips]
        decoders = []
        # (input channels from below, channels of the skip, output channels) of every step.
        steps = ((widths[5], widths[4], coarse), (coarse, widths[3], middle))
        for place, (below, across, out) in enumerate((*steps, (middle, widths[2], fine))):
            decoders.append(double_conv(below + across * (place < self.skips), out))
        self.decoders = nn.ModuleList(decoders)
        self.ends = ends(outputs, signed)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_B3HW: Tensor) -> Levels:
        """Normalised float RGB to maps of strides 4, 8 and 16."""
        # Four pixels as channels: nothing of the image is lost.
        encoded = [images_B3HW if self.stride == 1 else F.pixel_unshuffle(images_B3HW, self.stride)]
        for number, encoder in enumerate(self.encoders):
            encoded.append(encoder(F.max_pool2d(encoded[-1], 2) if number else encoded[-1]))
        # Maps of strides 16, 8 and 4, in the order of the decoder's steps.
        features, across = encoded[-1], [encoded[-2], encoded[-3], encoded[-4]]
        decoded = []
        for place, decoder in enumerate(self.decoders):
            features = upsample_2x(features)
            if place < self.skips:
                features = torch.cat([_dense_gradient(features), across[place]], 1)
            features = decoder(features)
            decoded.append(features)
        coarse, middle, fine = decoded
        return self.ends[0](fine), self.ends[1](middle), self.ends[2](coarse)


def _dense_gradient(features_BChw: Tensor) -> Tensor:
    """The same tensor; its gradient is made contiguous.

    The gradient of one input of `cat` is a strided slice, which bilinear upsampling backpropagates
    much more slowly on a CPU.
    """
    if features_BChw.requires_grad and not torch.compiler.is_compiling():
        features_BChw.register_hook(
            lambda gradient: gradient.contiguous(memory_format=torch.channels_last)
        )
    return features_BChw


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    parts: list[nn.Module] = []
    for before in (inputs, outputs):
        convolution = nn.Conv2d(before, outputs, 3, padding=1, bias=False)
        parts += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)
