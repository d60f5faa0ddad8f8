"""What makes the small LaMa's fill right (L1), as textured as its surroundings, and plausible.

Plain L1 alone answers uncertainty with blur. Two terms answer it with texture: the amplitude
spectrum of small windows, which ignores where exactly a grain lies, and a small patch
discriminator trained along, with its features matched. No pretrained network takes part.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WINDOW = 16
"""Side of the windows whose amplitude spectra are compared."""


class PatchCritic(nn.Module):
    """Judges 8-pixel cells of a picture (with the hole as a fourth channel): real or filled in."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        steps = (4, width, 2 * width, 4 * width)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in itertools.pairwise(steps)
        )
        self.judge = nn.Conv2d(steps[-1], 1, 3, padding=1)

    def forward(self, picture_B3HW: Tensor, hole_B1HW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (higher = real) and the features of every stage."""
        x = torch.cat((soften(picture_B3HW) * 2 - 1, hole_B1HW), 1)
        features = []
        for stage in self.stages:
            x = F.leaky_relu(stage(x), 0.2)
            features.append(x)
        return self.judge(x), features


def soften(picture_B3HW: Tensor) -> Tensor:
    """A 3x3 binomial blur: the compositor adds the sensor noise, so nobody shall judge by it."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=picture_B3HW.dtype, device=picture_B3HW.device)
    kernel_3133 = (line[:, None] * line[None, :]).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(picture_B3HW, (1, 1, 1, 1), mode="replicate"), kernel_3133, groups=3)


def cells_in_hole(hole_B1HW: Tensor, like_B1hw: Tensor) -> Tensor:
    """The share of hole in each cell of the critic's grid."""
    return F.adaptive_avg_pool2d(hole_B1HW, like_B1hw.shape[-2:])


def weighted_mean(value: Tensor, weight: Tensor) -> Tensor:
    """Mean over the hole, per picture first, so that small holes count as much as large ones."""
    weight = weight.expand_as(value)
    total_B = weight.flatten(1).sum(1).clamp(min=1e-6)
    return ((value * weight).flatten(1).sum(1) / total_B).mean()


def pixel_loss(filled_B3HW: Tensor, truth_B3HW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """L1 in the hole at three scales; the coarse ones pull the shading right."""
    loss = weighted_mean((filled_B3HW - truth_B3HW).abs(), hole_B1HW)
    composite = hole_B1HW * (filled_B3HW - truth_B3HW)
    for scale in (4, 16):
        error, share = F.avg_pool2d(composite, scale), F.avg_pool2d(hole_B1HW, scale)
        # `error` already holds the share of hole in a cell, so its sum over shares is the mean.
        total_B = 3 * share.flatten(1).sum(1).clamp(min=1e-6)
        loss = loss + (error.abs().flatten(1).sum(1) / total_B).mean()
    return loss


def spectrum_loss(filled_B3HW: Tensor, truth_B3HW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """L1 between amplitude spectra of overlapping windows, where they lie in the hole.

    The highest frequencies are left out: they are sensor noise, which is synthesised later.
    """
    window = torch.hann_window(WINDOW, periodic=False, device=filled_B3HW.device)
    window_HW = window[:, None] * window[None, :]
    f_y = torch.fft.fftfreq(WINDOW, device=window.device)[:, None]
    f_x = torch.fft.rfftfreq(WINDOW, device=window.device)[None, :]
    kept = ((f_x**2 + f_y**2).sqrt() < 0.36) & ((f_x + f_y.abs()) > 0)
    amplitudes = []
    for picture_B3HW in (filled_B3HW, truth_B3HW):
        tiles = picture_B3HW.unfold(2, WINDOW, WINDOW // 2).unfold(3, WINDOW, WINDOW // 2)
        spectrum = torch.fft.rfft2(tiles * window_HW, norm="ortho")
        amplitudes.append((spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt())
    share = F.avg_pool2d(hole_B1HW, WINDOW, WINDOW // 2)
    difference = ((amplitudes[0] - amplitudes[1]).abs() * kept).sum((-2, -1)) / kept.sum()
    return weighted_mean(difference, share)


def matching_loss(filled: list[Tensor], truth: list[Tensor], hole_B1HW: Tensor) -> Tensor:
    """L1 between the critic's features of the fill and of the truth, in the hole."""
    terms = [
        weighted_mean((f - t.detach()).abs().float(), cells_in_hole(hole_B1HW, f))
        for f, t in zip(filled, truth, strict=True)
    ]
    return torch.stack(terms).mean()


def gradient_penalty(critic: PatchCritic, real_B3HW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """R1: the squared gradient of the critic at real pictures (Mescheder et al., 2018)."""
    real_B3HW = real_B3HW.detach().requires_grad_(True)
    logits, _ = critic(real_B3HW, hole_B1HW)
    (slope_B3HW,) = torch.autograd.grad(logits.sum(), real_B3HW, create_graph=True)
    return slope_B3HW.square().flatten(1).sum(1).mean()
