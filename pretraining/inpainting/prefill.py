"""Initial fills for the small LaMa: smooth fills of the hole, and copies of other places.

Nothing here is learned. A harmonic fill (Laplace's equation) is safe; a biharmonic one also
continues slopes, and overshoots where the rim is noisy. A copy shows another place of the image
whose surroundings match those of the hole (He and Sun, "Statistics of patch offsets", ECCV 2012),
with a harmonic correction so that it meets the rim (Perez et al., "Poisson image editing", SIGGRAPH
2003). The network of `network.py` weighs the candidates pixel by pixel and adds a residual.

All of it runs in batches and inside TorchScript, which accepts constants as default values only.
Shapes: B batch, C channels, K copies, H, W pixels; a hole is 1 where the image is unknown.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Red-black sweeps per level; each level starts from the coarser solution, so a few are enough.
HARMONIC_SWEEPS = 6
# Steps of conjugate gradients per level of the biharmonic fill.
BIHARMONIC_STEPS = 8
# Successive over-relaxation: 1 is plain Gauss-Seidel, 2 no longer converges.
OVER_RELAXATION = 1.6
# Width in pixels of the surroundings that a copy has to match.
RING = 6
# The shifts of two copies differ by more than this, in pixels.
APART = 5


def harmonic_fill(
    image_BCHW: Tensor,
    hole_B1HW: Tensor,
    sweeps: int = HARMONIC_SWEEPS,
    relaxation: float = OVER_RELAXATION,
) -> Tensor:
    """Fill the hole so that every pixel is about the mean of its four neighbours: (B, C, H, W)."""
    # Multigrid from coarse to fine: large holes converge as fast as small ones.
    colours, holes = pyramid(image_BCHW, hole_B1HW)
    fill = _flat(colours[-1], holes[-1])
    for level in range(len(colours) - 1, -1, -1):
        colour, hole = colours[level], holes[level]
        height, width = colour.shape[-2], colour.shape[-1]
        fill = F.interpolate(fill, size=[height, width], mode="bilinear", align_corners=False)
        # Known pixels keep their value at every level.
        fill = colour + hole * (fill - colour)
        y = torch.arange(height, device=colour.device).reshape(-1, 1)
        x = torch.arange(width, device=colour.device).reshape(1, -1)
        # Checkerboard colouring: all red pixels can be updated at once, then all black ones.
        red = ((x + y) % 2).to(colour.dtype) * hole * relaxation
        black = hole * relaxation - red
        for _ in range(sweeps):
            fill = fill + red * (_neighbours(fill) / 4 - fill)
            fill = fill + black * (_neighbours(fill) / 4 - fill)
    return fill


def biharmonic_fill(image_BCHW: Tensor, hole_B1HW: Tensor, steps: int = BIHARMONIC_STEPS) -> Tensor:
    """Fill the hole with approximately the least bent surface that continues the rim.

    Minimises the squared Laplacian by conjugate gradients, from coarse to fine: (B, C, H, W).
    """
    colours, holes = pyramid(image_BCHW, hole_B1HW)
    fill = _flat(colours[-1], holes[-1])
    for level in range(len(colours) - 1, -1, -1):
        colour, hole = colours[level], holes[level]
        size = [colour.shape[-2], colour.shape[-1]]
        fill = F.interpolate(fill, size=size, mode="bicubic", align_corners=False)
        # Bicubic enlargement and noise can overshoot; the clamp keeps the start reasonable.
        fill = colour + hole * (fill.clamp(-0.5, 1.5) - colour)
        residual = -hole * _bending(fill)
        direction = residual
        energy = residual.square().sum((2, 3), keepdim=True)
        for _ in range(steps):
            bent = hole * _bending(direction)
            # One step of conjugate gradients for each image and channel.
            step = energy / (direction * bent).sum((2, 3), keepdim=True).clamp(min=1e-12)
            fill = fill + step * direction
            residual = residual - step * bent
            after = residual.square().sum((2, 3), keepdim=True)
            direction = residual + after / energy.clamp(min=1e-12) * direction
            energy = after
    return fill


def pyramid(image_BCHW: Tensor, hole_B1HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Colours and holes at full size, half size and so on; a cell is a hole if most is unknown."""
    known = 1.0 - hole_B1HW
    colour, weight = image_BCHW * known, known
    colours, holes = [colour], [hole_B1HW]
    while min(weight.shape[-2], weight.shape[-1]) > 2:
        colour = F.avg_pool2d(colour, 2, ceil_mode=True)
        weight = F.avg_pool2d(weight, 2, ceil_mode=True)
        hole = (weight < 0.5).to(weight.dtype)
        # Averages over the known pixels only.
        colours.append(colour / weight.clamp(min=1e-6) * (1.0 - hole))
        holes.append(hole)
    return colours, holes


def copies(harmonic_B3HW: Tensor, hole_B1HW: Tensor, count: int, apart: int = APART) -> Tensor:
    """The `count` best matching places, moved into the hole: (B, count*3, H, W).

    `harmonic_B3HW` is the image with its hole filled; it is used where a copy would be unknown.
    """
    height, width = harmonic_B3HW.shape[-2], harmonic_B3HW.shape[-1]
    cost_BHW = mismatch(harmonic_B3HW, hole_B1HW)
    batch = cost_BHW.shape[0]
    y = torch.arange(height, device=cost_BHW.device)
    x = torch.arange(width, device=cost_BHW.device)
    flat_B3P = harmonic_B3HW.flatten(2)
    found = []
    for _ in range(count):
        # The best shift per image, applied by gathering pixels.
        best_B = cost_BHW.flatten(1).argmin(1)
        down_B1, right_B1 = (best_B // width)[:, None], (best_B % width)[:, None]
        rows_BH, columns_BW = (y[None] + down_B1) % height, (x[None] + right_B1) % width
        from_BHW = rows_BH[:, :, None] * width + columns_BW[:, None, :]
        from_B3P = from_BHW.reshape(batch, 1, -1).expand(batch, 3, height * width)
        moved_B3HW = flat_B3P.gather(2, from_B3P).reshape(harmonic_B3HW.shape)
        found.append(moved_B3HW)
        # Cyclic distances: shifts wrap around, as in the Fourier transform.
        dy_BH = (y[None] - down_B1 + height // 2) % height - height // 2
        dx_BW = (x[None] - right_B1 + width // 2) % width - width // 2
        near_BHW = (dy_BH.abs() <= apart)[:, :, None] & (dx_BW.abs() <= apart)[:, None, :]
        # Exclude shifts close to this one from the next search.
        cost_BHW = cost_BHW + 1e3 * near_BHW.to(cost_BHW.dtype)
    # Poisson blending: a smooth correction makes each copy meet the rim.
    moved = torch.cat(found, 1)
    harmonic = harmonic_B3HW.repeat(1, count, 1, 1)
    return moved + harmonic_fill(harmonic - moved, hole_B1HW, 3)


def mismatch(harmonic_B3HW: Tensor, hole_B1HW: Tensor, reach: int = RING) -> Tensor:
    """Cost of every shift, how badly the moved image fits around the hole: (B, H, W).

    The mean squared difference of details in a ring around the hole, for all shifts at once by FFT,
    plus a penalty for moving parts of the hole, or the border of the image, into the hole.
    """
    size = [harmonic_B3HW.shape[-2], harmonic_B3HW.shape[-1]]
    # Compare details only: brightness differences are corrected afterwards.
    coarse = F.avg_pool2d(harmonic_B3HW, 8)
    detail = harmonic_B3HW - F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    # Border pixels count as hole, which keeps wrapped shifts from being attractive.
    barred = F.pad(hole_B1HW[:, :, 1:-1, 1:-1], [1, 1, 1, 1], value=1.0)
    usable = 1.0 - barred
    ring = F.max_pool2d(hole_B1HW, 2 * reach + 1, 1, reach) - hole_B1HW
    count = ring.sum((2, 3)).clamp(min=1.0)
    energy = detail.square().sum(1, keepdim=True)
    # |a - b|^2 = a^2 - 2ab + b^2, each term a cross-correlation; the last channel is the overlap
    # with the hole.
    here = torch.cat((ring, ring * detail, ring * energy, hole_B1HW), 1)
    there = torch.cat((usable * energy, -2.0 * usable * detail, usable, 4.0 * barred), 1)
    product = torch.fft.rfft2(here).conj() * torch.fft.rfft2(there)
    differences = torch.fft.irfft2(product[:, :5].sum(1), s=size)
    overlap = torch.fft.irfft2(product[:, 5], s=size)
    seen = torch.fft.irfft2(
        torch.fft.rfft2(ring[:, 0]).conj() * torch.fft.rfft2(usable[:, 0]), s=size
    )
    area = hole_B1HW.sum((2, 3)).clamp(min=1.0)
    # Shifts for which less than 40 % of the ring can be compared get a penalty of 1.
    mean = differences / seen.clamp(min=1.0) + (seen < 0.4 * count[:, :, None]).to(seen.dtype)
    return mean + 0.2 * overlap / area[:, :, None]


def _flat(colour: Tensor, hole: Tensor) -> Tensor:
    """The mean of the known pixels, everywhere; grey where nothing is known."""
    known = (1.0 - hole).sum((2, 3), keepdim=True)
    mean = colour.sum((2, 3), keepdim=True) / known.clamp(min=1.0)
    return torch.where(known > 0, mean, torch.full_like(mean, 0.5)).expand(colour.shape)


def _neighbours(x: Tensor) -> Tensor:
    """The sum of the four neighbours; the border is replicated."""
    padded = F.pad(x, [1, 1, 1, 1], mode="replicate")
    return (
        padded[:, :, :-2, 1:-1]
        + padded[:, :, 2:, 1:-1]
        + padded[:, :, 1:-1, :-2]
        + padded[:, :, 1:-1, 2:]
    )


def _bending(x: Tensor) -> Tensor:
    """The Laplacian of the Laplacian, gradient of the bending energy."""
    x = _neighbours(x) - 4.0 * x
    return _neighbours(x) - 4.0 * x
