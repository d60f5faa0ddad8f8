"""A small LaMa-like inpainting network: fast Fourier convolutions in a U-shaped residual net.

After R. Suvorov et al., "Resolution-robust Large Mask Inpainting with Fourier Convolutions"
(WACV 2022), written from the paper. One call has the signature of the published `big-lama.pt`:
`model(image_B3HW in [0, 1], mask_B1HW in {0, 1}, 1 = hole) -> image_B3HW`, H and W multiples of 8.

Differences from the paper, and why:
- The input has the hole filled in four ways that need no learning (`prefill.py`): two smooth fills
  and two copies of matching places. The network weighs them pixel by pixel and adds a residual, so
  it starts as good as classical methods and learns what they cannot do.
- No normalisation layers (a learned gain per block instead): batch statistics shift colours, and
  an inpainted hole must match its surroundings to a grey level.
- Additive skips from encoder to decoder, so that the rim of the hole sees the pixels beside it.
- Sensor noise is not predicted but modelled on the ring around the hole (`noise_synthesis.py`).

Attribute names are those in `weights/small_lama.pt`.

Shapes: B batch, C channels, K candidates, H, W pixels; `f` in a name is the half plane of a real
2-D spectrum.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretraining.inpainting.noise_synthesis import missing_noise
from pretraining.inpainting.prefill import biharmonic_fill, copies, harmonic_fill

# Height and width of the input must be multiples of this.
STRIDE = 8


class FourierUnit(nn.Module):
    """A 1x1 convolution in the frequency domain: every output pixel sees the whole image.

    It has no bias, so with orthonormal transforms its answer does not depend on the image size.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(2 * channels, 2 * channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        height, width = x_BCHW.shape[-2], x_BCHW.shape[-1]
        # CPU and GPU transforms exist in float32 only, so this part leaves autocast's bfloat16.
        f_BCHf = torch.fft.rfft2(x_BCHW.float().contiguous(), norm="ortho")
        # Real and imaginary parts are channels of an ordinary convolution.
        stacked_BCHf = F.relu(self.mix(torch.cat((f_BCHf.real, f_BCHf.imag), 1))).float()
        real_BCHf, imaginary_BCHf = stacked_BCHf.chunk(2, 1)
        f_BCHf = torch.complex(real_BCHf.contiguous(), imaginary_BCHf.contiguous())
        return torch.fft.irfft2(f_BCHf, s=(height, width), norm="ortho").to(x_BCHW.dtype)


class SpectralTransform(nn.Module):
    """The global-to-global path: squeeze, Fourier unit around a residual, expand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // 2, 1)
        self.fourier = FourierUnit(channels // 2)
        self.expand = nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        squeezed_BCHW = F.relu(self.squeeze(x_BCHW))
        return self.expand(squeezed_BCHW + self.fourier(squeezed_BCHW))


class FastFourierConv(nn.Module):
    """A convolution over two groups of channels, local (3x3) and global (spectral), that exchange.

    Local to local, local to global and global to local are one 3x3 convolution of the joined
    channels in effect; they run as two so that global to global stays spectral.
    """

    def __init__(self, local: int, whole: int) -> None:
        super().__init__()
        self.local = local
        self.from_local = nn.Conv2d(local, local + whole, 3, padding=1)
        self.from_global = nn.Conv2d(whole, local, 3, padding=1)
        self.spectral = SpectralTransform(whole)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        local_BCHW, global_BCHW = x_BCHW[:, : self.local], x_BCHW[:, self.local :]
        mixed_BCHW = self.from_local(local_BCHW)
        return torch.cat(
            (
                mixed_BCHW[:, : self.local] + self.from_global(global_BCHW),
                mixed_BCHW[:, self.local :] + self.spectral(global_BCHW),
            ),
            1,
        )


class FourierBlock(nn.Module):
    """Two fast Fourier convolutions around a shortcut; the gain starts small, so blocks fade in."""

    def __init__(self, local: int, whole: int) -> None:
        super().__init__()
        self.first = FastFourierConv(local, whole)
        self.second = FastFourierConv(local, whole)
        # A small gain at first makes each block nearly the identity.
        self.gain = nn.Parameter(torch.full((1, local + whole, 1, 1), 0.2))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.second(F.relu(self.first(x_BCHW)))
        return x_BCHW + self.gain.to(x_BCHW.dtype) * y_BCHW


# Copies of matching places that the network gets beside the two smooth fills.
COPIES = 2


class SmallLama(nn.Module):
    """Three downsamplings, `blocks` Fourier blocks at stride 8, three upsamplings."""

    def __init__(
        self,
        widths: tuple[int, int, int] = (32, 64, 128),
        global_share: float = 0.5,
        blocks: int = 5,
    ) -> None:
        super().__init__()
        half, quarter, eighth = widths
        # A multiple of 8 channels, which convolutions process fastest.
        whole = int(eighth * global_share) // 8 * 8
        # Input channels: the fills and the mask. `full` is the width at full resolution.
        seen, full = 3 * (2 + COPIES) + 1, 16
        self.down1 = nn.Conv2d(seen, half, 5, stride=2, padding=2)
        self.down2 = nn.Conv2d(half, quarter, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(quarter, eighth, 3, stride=2, padding=1)
        self.body = nn.Sequential(*[FourierBlock(eighth - whole, whole) for _ in range(blocks)])
        self.up3 = nn.Conv2d(eighth, quarter, 3, padding=1)
        self.up2 = nn.Conv2d(quarter, half, 3, padding=1)
        self.near2 = nn.Conv2d(half, half, 3, padding=1)
        # The step to full resolution is a pixel shuffle: wide layers at full size would cost as
        # much as the rest of the network.
        self.up1 = nn.Conv2d(half, 4 * full, 3, padding=1)
        self.near1 = nn.Conv2d(full + seen, full, 3, padding=1)
        self.last = nn.Conv2d(full, 3 + 2 + COPIES, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Untrained, it adds nothing and prefers the smooth fills, which are right on plain
        # backgrounds: the copies start with logits of -2.
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias[5:].fill_(-2.0)  # type: ignore[index]

    def predict(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """The fill before clamping and compositing, and the noise to add to it (no gradient)."""
        with torch.no_grad():
            fills_BK3HW = candidates(image_B3HW, mask_B1HW)
        blended_B3HW = self.blend(fills_BK3HW, mask_B1HW)
        with torch.no_grad():
            filled_B3HW = mask_B1HW * blended_B3HW + (1.0 - mask_B1HW) * image_B3HW
            noise_B3HW = missing_noise(filled_B3HW, mask_B1HW)
        return blended_B3HW, noise_B3HW

    def blend(self, fills_BK3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        """Weigh the candidates pixel by pixel and add a predicted residual."""
        harmonic_B3HW = fills_BK3HW[:, 0]
        # The other candidates as differences from the harmonic fill: zero where all agree.
        differences = (fills_BK3HW[:, 1:] - fills_BK3HW[:, :1]).flatten(1, 2)
        x_BCHW = torch.cat((harmonic_B3HW - 0.5, differences, mask_B1HW), 1)
        x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        e1 = F.relu(self.down1(x_BCHW))
        e2 = F.relu(self.down2(e1))
        y = self.body(F.relu(self.down3(e2)))
        y = F.relu(self.up3(F.interpolate(y, scale_factor=2.0, mode="nearest")) + e2)
        y = F.relu(self.up2(F.interpolate(y, scale_factor=2.0, mode="nearest")) + e1)
        # One more convolution at half size, as a residual.
        y = y + F.relu(self.near2(y))
        y = F.pixel_shuffle(F.relu(self.up1(y)), 2)
        y = F.relu(self.near1(torch.cat((y, x_BCHW.to(y.dtype)), 1)))
        answer = self.last(y).to(harmonic_B3HW.dtype)
        # Channels 0 to 2 are the residual, the others the logits of the candidates' weights.
        shares_BK1HW = torch.softmax(answer[:, 3:], 1).unsqueeze(2)
        return (shares_BK1HW * fills_BK3HW).sum(1) + answer[:, :3]

    def forward(self, image_B3HW: Tensor, mask_B1HW: Tensor) -> Tensor:
        mask_B1HW = mask_B1HW.to(image_B3HW.dtype)
        blended_B3HW, noise_B3HW = self.predict(image_B3HW, mask_B1HW)
        filled_B3HW = (blended_B3HW + noise_B3HW).clamp(0.0, 1.0)
        return mask_B1HW * filled_B3HW + (1.0 - mask_B1HW) * image_B3HW


def candidates(image_B3HW: Tensor, mask_B1HW: Tensor, count: int = COPIES) -> Tensor:
    """Smooth fills and copies: (B, K, 3, H, W), K = 2 + count; the image itself elsewhere."""
    harmonic_B3HW = harmonic_fill(image_B3HW, mask_B1HW)
    biharmonic_B3HW = biharmonic_fill(image_B3HW, mask_B1HW)
    copied = copies(harmonic_B3HW, mask_B1HW, count)
    together = torch.cat((harmonic_B3HW, biharmonic_B3HW, copied), 1).clamp(0.0, 1.0)
    return together.unflatten(1, [2 + count, 3])
