"""Sensor noise for a smooth fill, modelled on the image around the hole: the last step of the LaMa.

A fill that is right on average is smoother than a camera image, and detectors notice that. The
noise of the ring around the hole keeps its spectrum and its colours but gets random phases: noise
of the same appearance without any outline in it (Galerne et al., "Random phase textures", IEEE TIP
2011). It is scaled so that the level in the hole equals that of the rim. The compositor adds only
noise that is missing, so none is added twice.

Shapes: B batch, H, W pixels; f a half plane of spectrum; a hole is 1 where the image is filled.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from pretraining.inpainting.prefill import harmonic_fill

# Width in pixels of the ring around the hole that the noise is measured on.
RING = 9
# Largest noise to add, as a standard deviation: beyond it the ring holds texture, not noise.
LIMIT = 6.0 / 255.0
# Values beyond this many standard deviations are edges, not noise, and are clipped.
CUT = 2.5


def missing_noise(
    filled_B3HW: Tensor,
    hole_B1HW: Tensor,
    ring: int = RING,
    limit: float = LIMIT,
    cut: float = CUT,
) -> Tensor:
    """The noise that `filled_B3HW` lacks inside the hole, (B, 3, H, W); 0 elsewhere."""
    fine_B3HW = high_pass(filled_B3HW)
    ring_B1HW = F.max_pool2d(hole_B1HW, 2 * ring + 1, 1, ring) - hole_B1HW
    calm_B1HW = calm(fine_B3HW, ring_B1HW)
    around, inside = level(fine_B3HW, calm_B1HW), level(fine_B3HW, hole_B1HW)
    # Next to a textured part the rim may be plain, and there the fill must stay plain. So the level
    # of the rim is continued inwards, and limited by the level of the whole ring.
    known_B1HW = 1.0 - hole_B1HW
    share = F.avg_pool2d(known_B1HW, 7, 1, 3).clamp(min=1e-3)
    # Clip edges.
    fine_B3HW = torch.maximum(torch.minimum(fine_B3HW, cut * around), -cut * around)
    sizes = fine_B3HW.abs() * known_B1HW
    # 1.3 turns a mean of clipped absolute values into a standard deviation.
    near = harmonic_fill(1.3 * F.avg_pool2d(sizes, 7, 1, 3) / share, hole_B1HW, 2)
    wanted = torch.minimum(near, around).clamp(max=limit)
    # Variances add: what is missing is the difference of the squares.
    lacking = (wanted.square() - inside.square()).clamp(min=0.0).sqrt()
    noise_B3HW = random_phase(fine_B3HW * calm_B1HW)
    return hole_B1HW * noise_B3HW * lacking / level(noise_B3HW, hole_B1HW).clamp(min=1e-5)


def calm(fine_B3HW: Tensor, ring_B1HW: Tensor, above: float = 1.2) -> Tensor:
    """The part of the ring that shows noise alone: edges would turn into a woven pattern."""
    local_B1HW = F.avg_pool2d(fine_B3HW.abs().mean(1, keepdim=True), 5, 1, 2)
    calm_B1HW = ring_B1HW
    # Repeatedly drop what is above 1.2 times the mean of the rest.
    for _ in range(6):
        count = calm_B1HW.sum((2, 3), keepdim=True).clamp(min=1.0)
        mean = (local_B1HW * calm_B1HW).sum((2, 3), keepdim=True) / count
        calm_B1HW = ring_B1HW * (local_B1HW <= above * mean).to(ring_B1HW.dtype)
    return calm_B1HW


def random_phase(sample_B3HW: Tensor) -> Tensor:
    """Noise over the whole image with the spectrum of the sample; deterministic."""
    height, width = sample_B3HW.shape[-2], sample_B3HW.shape[-1]
    # A hash of the pixel's number, because an exported file cannot hold a generator's state.
    number = torch.arange(height * width, device=sample_B3HW.device)
    for _ in range(3):
        number = ((number ^ (number >> 16)) * 73244475 + 12345) % 4294967296
    noise_HW = number.reshape(height, width).to(torch.float32) / 4294967296.0 - 0.5
    phase_Hf = torch.fft.rfft2(noise_HW)
    # Keep the phases only.
    phase_Hf = phase_Hf / phase_Hf.abs().clamp(min=1e-6)
    spectrum_B3Hf = torch.fft.rfft2(sample_B3HW.float())
    # The same phases for all three colours preserve their correlation.
    return torch.fft.irfft2(spectrum_B3Hf * phase_Hf, s=[height, width]).to(sample_B3HW.dtype)


def high_pass(image_B3HW: Tensor) -> Tensor:
    """The image minus its 5x5 binomial blur; sums, because autocast would round a convolution."""
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
    """Standard deviation over a region, robust against a few strong edges: (B, 3, 1, 1).

    Estimated from mean absolute values, clipped at 2.5 times the previous estimate.
    """
    size = fine_B3HW.abs()
    count = where_B1HW.sum((2, 3), keepdim=True).clamp(min=1.0)
    # sqrt(pi / 2): mean absolute value to standard deviation, for normal noise.
    found = 1.2533 * (size * where_B1HW).sum((2, 3), keepdim=True) / count
    for _ in range(4):
        cut = torch.minimum(size, 2.5 * found)
        # Slightly more than sqrt(pi / 2), to make up for clipping.
        found = 1.26 * (cut * where_B1HW).sum((2, 3), keepdim=True) / count
    return found
