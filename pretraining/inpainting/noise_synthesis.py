"""Grain for a smooth fill, modelled on the picture around the hole: the small LaMa's last step.

A fill that is right on average is smoother than what a camera sees, and detectors find it by that.
The grain of the ring around the hole keeps its spectrum and its colours and loses its phases, which
turns it into noise of the same look without any outline in it (Galerne et al., "Random phase
textures", IEEE TIP 2011). It is scaled so that the level in the hole becomes that of the rim. The
compositor adds only grain that is lacking, so none is added twice.

Shapes: B batch, H, W pixels; f a half plane of spectrum; a hole is 1 where the picture is filled.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.inpainting.prefill import soap_film

RING = 9
LIMIT = 6.0 / 255.0
"""Most grain to add, as a standard deviation: beyond it the ring holds texture, not grain."""
CUT = 2.5
"""Values beyond so many standard deviations are edges, not grain, and are cut off."""


def lacking_grain(
    filled_B3HW: Tensor,
    hole_B1HW: Tensor,
    ring: int = RING,
    limit: float = LIMIT,
    cut: float = CUT,
) -> Tensor:
    """The grain that `filled_B3HW` lacks inside the hole; 0 elsewhere."""
    fine_B3HW = high_pass(filled_B3HW)
    ring_B1HW = F.max_pool2d(hole_B1HW, 2 * ring + 1, 1, ring) - hole_B1HW
    calm_B1HW = calm(fine_B3HW, ring_B1HW)
    around, inside = level(fine_B3HW, calm_B1HW), level(fine_B3HW, hole_B1HW)
    # Beside a busy part the rim may be plain, and there the fill must stay plain: the level of the
    # rim is carried inwards, and nowhere more than the level of the whole ring is wanted.
    known_B1HW = 1.0 - hole_B1HW
    share = F.avg_pool2d(known_B1HW, 7, 1, 3).clamp(min=1e-3)
    fine_B3HW = torch.maximum(torch.minimum(fine_B3HW, cut * around), -cut * around)
    sizes = fine_B3HW.abs() * known_B1HW
    near = soap_film(1.3 * F.avg_pool2d(sizes, 7, 1, 3) / share, hole_B1HW, 2)
    wanted = torch.minimum(near, around).clamp(max=limit)
    lacking = (wanted.square() - inside.square()).clamp(min=0.0).sqrt()
    grain_B3HW = random_phase(fine_B3HW * calm_B1HW)
    return hole_B1HW * grain_B3HW * lacking / level(grain_B3HW, hole_B1HW).clamp(min=1e-5)


def calm(fine_B3HW: Tensor, ring_B1HW: Tensor, above: float = 1.2) -> Tensor:
    """The part of the ring that shows grain alone: edges would turn into a weave in the hole."""
    local_B1HW = F.avg_pool2d(fine_B3HW.abs().mean(1, keepdim=True), 5, 1, 2)
    calm_B1HW = ring_B1HW
    for _ in range(6):
        count = calm_B1HW.sum((2, 3), keepdim=True).clamp(min=1.0)
        mean = (local_B1HW * calm_B1HW).sum((2, 3), keepdim=True) / count
        calm_B1HW = ring_B1HW * (local_B1HW <= above * mean).to(ring_B1HW.dtype)
    return calm_B1HW


def random_phase(sample_B3HW: Tensor) -> Tensor:
    """Noise over the whole picture with the spectrum of the sample, the same noise every time."""
    height, width = sample_B3HW.shape[-2], sample_B3HW.shape[-1]
    # A hash of the pixel's number, since a generator's state has no place in an exported file.
    number = torch.arange(height * width, device=sample_B3HW.device)
    for _ in range(3):
        number = ((number ^ (number >> 16)) * 73244475 + 12345) % 4294967296
    noise_HW = number.reshape(height, width).to(torch.float32) / 4294967296.0 - 0.5
    phase_Hf = torch.fft.rfft2(noise_HW)
    phase_Hf = phase_Hf / phase_Hf.abs().clamp(min=1e-6)
    spectrum_B3Hf = torch.fft.rfft2(sample_B3HW.float())
    # One phase for all three colours keeps them together, as they are in the sample.
    return torch.fft.irfft2(spectrum_B3Hf * phase_Hf, s=[height, width]).to(sample_B3HW.dtype)


def high_pass(image_B3HW: Tensor) -> Tensor:
    """The picture less a 5x5 binomial blur of it; sums, as autocast would round a convolution."""
    x = F.pad(image_B3HW, [2, 2, 2, 2], mode="replicate")
    x = x[..., :-4] + 4.0 * x[..., 1:-3] + 6.0 * x[..., 2:-2] + 4.0 * x[..., 3:-1] + x[..., 4:]
    x = (
        x[..., :-4, :]
        + 4.0 * (x[..., 1:-3, :] + x[..., 3:-1, :])
        + x[..., 4:, :]
        + (6.0 * x[..., 2:-2, :])
    )
    return image_B3HW - x / 256.0


def level(fine_B3HW: Tensor, where_B1HW: Tensor) -> Tensor:
    """Standard deviation over a region that a few strong edges do not move: (B, 3, 1, 1).

    From mean absolute values, cut at two and a half times the level found before.
    """
    size = fine_B3HW.abs()
    count = where_B1HW.sum((2, 3), keepdim=True).clamp(min=1.0)
    found = 1.2533 * (size * where_B1HW).sum((2, 3), keepdim=True) / count
    for _ in range(4):
        cut = torch.minimum(size, 2.5 * found)
        found = 1.26 * (cut * where_B1HW).sum((2, 3), keepdim=True) / count
    return found
