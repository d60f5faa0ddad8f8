"""EfficientAD's autoencoder: the whole image through a bottleneck of 64 numbers, and back.

It reconstructs the teacher's features of normal images and fails on logical anomalies, which its
bottleneck cannot encode. A student that imitates it on normal images makes this failure measurable.
(Batzner, Heckler, König, WACV 2024; layers as in public implementations.)

Shapes: B batch; 3 colour; H, W image; C channels of the teacher; h, w its cells.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.pdn import cells_per_side, scaled_channels

# Channels of the first two convolutions, and of all others.
NARROW, WIDE = 32, 64


class Autoencoder(nn.Module):
    """From normalised images (B, 3, size, size) to features (B, `outputs`, h, w).

    Designed for 256 px, where the bottleneck is a single cell. For smaller images its kernel
    shrinks, so it stays a single cell; for larger ones the bottleneck has more cells. `width`
    scales the hidden channels.
    """

    def __init__(self, size: int, outputs: int, width: float = 1.0) -> None:
        super().__init__()
        narrow, wide = scaled_channels(NARROW, width), scaled_channels(WIDE, width)
        channels = (3, narrow, narrow, wide, wide, wide)
        self.encoder = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        # Five convolutions of stride 2 leave size / 32 cells per side, 8 at 256 px.
        self.bottleneck = nn.Conv2d(wide, wide, min(8, size // 32))
        # A kernel of 4 with padding 2 adds one cell per side, which `decoder_sizes` allows for.
        self.decoder = nn.ModuleList(nn.Conv2d(wide, wide, 4, padding=2) for _ in range(6))
        self.last_hidden = nn.Conv2d(wide, wide, 3, padding=1)
        self.last = nn.Conv2d(wide, outputs, 3, padding=1)
        self.sizes = decoder_sizes(size)

    def forward(self, images_B3HW: Tensor, dropout: float = 0.0) -> Tensor:
        """Reconstructed teacher features. Dropout is an argument, so scoring never has any."""
        maps = images_B3HW
        for convolution in self.encoder:
            maps = F.relu_(convolution(maps))
        maps = self.bottleneck(maps)
        for convolution, side in zip(self.decoder, self.sizes[:-1], strict=True):
            maps = F.relu_(convolution(_resized(maps, side)))
            maps = F.dropout(maps, dropout, training=dropout > 0)
        return self.last(F.relu_(self.last_hidden(_resized(maps, self.sizes[-1]))))


def decoder_sizes(size: int) -> tuple[int, ...]:
    """Sides to which the decoder resizes: 3, 8, 15, 32, 63, 127 and 56 for images of 256 px.

    The last resize goes down, from 128 cells to the 56 of the unpadded teacher. The rule for other
    sizes is that of anomalib.
    """
    inner = (size // 64 - 1, size // 32, size // 16 - 1, size // 8, size // 4 - 1, size // 2 - 1)
    return (*(max(1, side) for side in inner), cells_per_side(size))


def _resized(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
