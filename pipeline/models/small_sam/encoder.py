"""The image encoder of the bundled small SAM: residual convolutions with a path back up.

Prompts attend to 16 x 16 cells, which is far too coarse for a screw of ten pixels: even ideal
logits at a quarter of the input's side reach a mean IoU of 0.85 only on our scenes. So the encoder
also returns finer features, computed once per image, which the decoder adds to the mask of every
prompt as SAM 2 does (Ravi et al., 2024, §4 "high-resolution features").

`Sam` passes one tensor from encoder to decoder. The finer maps travel inside it: `pack` folds each
into more channels of the 16 x 16 grid, `unpack` is its inverse.

Shapes: B images; C channels; h, w = 16 cells; the finer maps have 2h, 4h and 8h rows.

The attribute names of the modules are the tensor names in weights/small_sam.safetensors.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Channels of the finer maps at strides 8, 4 and 2.
EIGHTH, QUARTER, HALF = 32, 16, 16


class Features(NamedTuple):
    """The features of a batch of images, coarse to fine."""

    # Stride 16: the map that prompts attend to.
    embedding_BChw: Tensor
    eighth_BChw: Tensor
    quarter_BChw: Tensor
    half_BChw: Tensor

    def pack(self) -> Tensor:
        """All maps as channels of one (B, C + 4 x 32 + 16 x 16 + 64 x 16, h, w) tensor."""
        # Each cell of the coarse grid holds 2 x 2, 4 x 4 and 8 x 8 cells of the finer ones.
        folded = (
            F.pixel_unshuffle(self.eighth_BChw, 2),
            F.pixel_unshuffle(self.quarter_BChw, 4),
            F.pixel_unshuffle(self.half_BChw, 8),
        )
        return torch.cat((self.embedding_BChw, *folded), 1)


def unpack(packed_BChw: Tensor) -> Features:
    """The inverse of `Features.pack`."""
    folded = 4 * EIGHTH, 16 * QUARTER, 64 * HALF
    embedding, eighth, quarter, half = packed_BChw.split(
        (packed_BChw.shape[1] - sum(folded), *folded), 1
    )
    return Features(
        embedding,
        F.pixel_shuffle(eighth, 2),
        F.pixel_shuffle(quarter, 4),
        F.pixel_shuffle(half, 8),
    )


class ConvEncoder(nn.Module):
    """Down to stride 16, dilated at the end for a large receptive field, then up again."""

    def __init__(self, img_size: int, out_channels: int) -> None:
        super().__init__()
        self.img_size = img_size
        # Pixels are folded 2 x 2 into channels first: a 3 x 3 convolution at full resolution would
        # cost as much as a whole stage below.
        self.stride2 = nn.Sequential(nn.PixelUnshuffle(2), _conv(12, 32, kernel=1), nn.ReLU(True))
        self.stride4 = nn.Sequential(_conv(32, 64, stride=2), nn.ReLU(True))
        self.stride8 = nn.Sequential(ResidualBlock(64, 128, stride=2), ResidualBlock(128, 128))
        self.stride16 = nn.Sequential(
            ResidualBlock(128, 192, stride=2),
            ResidualBlock(192, 192),
            ResidualBlock(192, 192, dilation=2),
            ResidualBlock(192, 192, dilation=4),
        )
        # The path up, with skip connections from the path down.
        self.up8 = UpStep(192, 128, 96)
        self.up4 = UpStep(96, 64, 48)
        self.up2 = UpStep(48, 32, 24)
        # The embedding is the sum of the deepest map and of a strided view of the one above it.
        self.deep = _conv(192, out_channels, kernel=1)
        self.detail = _conv(96, out_channels, stride=2)
        self.to_eighth = nn.Conv2d(96, EIGHTH, 1)
        self.to_quarter = nn.Conv2d(48, QUARTER, 1)
        self.to_half = nn.Conv2d(24, HALF, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.features(images_BCHW)[0].pack()

    def features(self, images_BCHW: Tensor) -> tuple[Features, Tensor, Tensor]:
        """The features, and the maps at strides 4 (48 channels) and 2 (24 channels) behind them.

        Training attaches auxiliary losses to the latter two.
        """
        # Channels-last convolutions are several times faster on CPUs with AMX.
        second = self.stride2(images_BCHW.contiguous(memory_format=torch.channels_last))
        fourth = self.stride4(second)
        eighth = self.stride8(fourth)
        deep = self.stride16(eighth)
        up8 = self.up8(deep, eighth)
        up4 = self.up4(up8, fourth)
        up2 = self.up2(up4, second)
        embedding = self.deep(deep) + self.detail(up8)
        found = Features(embedding, self.to_eighth(up8), self.to_quarter(up4), self.to_half(up2))
        return found, up4, up2


class UpStep(nn.Module):
    """Upsample the coarser map by 2, add a projection of the finer one, merge by a convolution."""

    def __init__(self, coarse: int, fine: int, outputs: int) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(coarse, outputs, 1)
        self.fine = _conv(fine, outputs, kernel=1)
        self.merge = _conv(outputs, outputs)

    def forward(self, coarse_BChw: Tensor, fine_BChw: Tensor) -> Tensor:
        doubled = F.interpolate(self.coarse(coarse_BChw), scale_factor=2.0, mode="nearest")
        return F.relu(self.merge(F.relu(doubled + self.fine(fine_BChw))), inplace=True)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, added to the input or its projection."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.first = _conv(inputs, outputs, stride=stride, dilation=dilation)
        self.second = _conv(outputs, outputs)
        # The input can be added as it is only at equal width and size.
        same = inputs == outputs and stride == 1
        self.skip = nn.Identity() if same else _conv(inputs, outputs, kernel=1, stride=stride)

    def forward(self, x_BChw: Tensor) -> Tensor:
        inner = self.second(F.relu(self.first(x_BChw), inplace=True))
        return F.relu(inner + self.skip(x_BChw), inplace=True)


def _conv(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A padded convolution with batch norm; the output is smaller by the stride only."""
    convolution = nn.Conv2d(
        inputs,
        outputs,
        kernel,
        stride,
        padding=dilation * (kernel // 2),
        dilation=dilation,
        bias=False,
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs))
