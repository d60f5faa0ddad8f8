"""EfficientAD's autoencoder: the whole picture through one vector of 64 numbers, and back.

What does not fit through is what logical anomalies break, so its output, compared with a student
that learnt to imitate it on normal pictures, shows them. (Batzner, Heckler, König, WACV 2024.)

Shapes: B batch; 3 colour; H, W picture; C channels of the teacher; h, w its cells.
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks.pdn import cells, scaled

NARROW, WIDE = 32, 64


class Autoencoder(nn.Module):
    """From normalised pictures (B, 3, size, size) to features (B, `outputs`, h, w).

    Made for 256 px, where the bottleneck is one cell. Below, its kernel shrinks with the picture;
    above it stays and the bottleneck has more cells. `width` scales the hidden channels.
    """

    def __init__(self, size: int, outputs: int, width: float = 1.0) -> None:
        super().__init__()
        narrow, wide = scaled(NARROW, width), scaled(WIDE, width)
        channels = (3, narrow, narrow, wide, wide, wide)
        self.encoder = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1) for before, after in pairwise(channels)
        )
        self.bottleneck = nn.Conv2d(wide, wide, min(8, size // 32))
        self.decoder = nn.ModuleList(nn.Conv2d(wide, wide, 4, padding=2) for _ in range(6))
        self.last_hidden = nn.Conv2d(wide, wide, 3, padding=1)
        self.last = nn.Conv2d(wide, outputs, 3, padding=1)
        self.sizes = sizes(size)

    def forward(self, images_B3HW: Tensor, dropout: float = 0.0) -> Tensor:
        """Features like the teacher's. Only the loss asks for dropout, so scoring has none."""
        maps = images_B3HW
        for convolution in self.encoder:
            maps = F.relu_(convolution(maps))
        maps = self.bottleneck(maps)
        for convolution, side in zip(self.decoder, self.sizes[:-1], strict=True):
            maps = F.relu_(convolution(_resized(maps, side)))
            maps = F.dropout(maps, dropout, training=dropout > 0)
        return self.last(F.relu_(self.last_hidden(_resized(maps, self.sizes[-1]))))


def sizes(size: int) -> tuple[int, ...]:
    """Sides to which the decoder resizes; 3, 8, 15, 32, 63, 127 and 56 for 256 px.

    The last one is smaller than the one before: the decoder overshoots and comes back.
    """
    inner = (size // 64 - 1, size // 32, size // 16 - 1, size // 8, size // 4 - 1, size // 2 - 1)
    return (*(max(1, side) for side in inner), cells(size))


def _resized(maps: Tensor, side: int) -> Tensor:
    return F.interpolate(maps, (side, side), mode="bilinear", align_corners=False)
