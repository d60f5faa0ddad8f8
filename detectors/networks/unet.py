"""The U-Net that rebuilds objects: five poolings down, three steps up, to a quarter of the picture.

After Ronneberger et al. (MICCAI 2015), with batch norm and bilinear enlarging. The decoder stops
where the teacher's finest level lies, and gives one map for each of the teacher's three levels.

Shapes: B batch; H, W picture, multiples of 32; C channels; h, w cells of a level.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.denoising_student import doubled
from pipeline.models.backbone import Levels

Skips = Literal["all", "deep", "none"]
"""Which encoder maps the decoder sees: strides 4, 8, 16; 8 and 16; none."""


class UNet(nn.Module):
    """Widths base, 2, 4, 8, 16, 16 times base going down; `outputs` (fine to coarse) going up.

    With base 32 and outputs 64, 128, 256 it has 13 307 360 parameters. Outputs come out of a ReLU,
    as the teacher's features do.
    """

    def __init__(
        self, base: int = 32, outputs: tuple[int, int, int] = (64, 128, 256), skips: Skips = "all"
    ) -> None:
        super().__init__()
        widths = [base * factor for factor in (1, 2, 4, 8, 16, 16)]
        self.encoders = nn.ModuleList(
            double(before, width) for before, width in zip((3, *widths), widths, strict=False)
        )
        fine, middle, coarse = outputs
        self.skips = {"all": 3, "deep": 2, "none": 0}[skips]
        decoders = []
        steps = ((widths[5], widths[4], coarse), (coarse, widths[3], middle))
        for place, (below, across, out) in enumerate((*steps, (middle, widths[2], fine))):
            decoders.append(double(below + across * (place < self.skips), out))
        self.decoders = nn.ModuleList(decoders)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images_B3HW: Tensor) -> Levels:
        """Normalised float RGB to maps of strides 4, 8 and 16."""
        seen = [images_B3HW]
        for number, encoder in enumerate(self.encoders):
            seen.append(encoder(F.max_pool2d(seen[-1], 2) if number else seen[-1]))
        features, across = seen[-1], [seen[5], seen[4], seen[3]]
        made = []
        for place, decoder in enumerate(self.decoders):
            features = doubled(features)
            if place < self.skips:
                features = torch.cat([features, across[place]], 1)
            features = decoder(features)
            made.append(features)
        coarse, middle, fine = made
        return fine, middle, coarse


def double(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    parts: list[nn.Module] = []
    for before in (inputs, outputs):
        convolution = nn.Conv2d(before, outputs, 3, padding=1, bias=False)
        parts += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts)
