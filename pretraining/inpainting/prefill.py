"""What the small LaMa starts from: smooth fills of the hole, and copies of other places.

Nothing here is learned. A harmonic fill (Laplace's equation, the soap film over the hole) is safe;
a biharmonic one (a bent sheet) also continues slopes, and overshoots where the rim is noisy; a copy
shows another place of the picture whose surroundings match those of the hole, with a soap film
added so that it meets the rim (He and Sun, "Statistics of patch offsets", ECCV 2012, for the one
idea, Perez et al., "Poisson image editing", SIGGRAPH 2003, for the other). The network of `lama.py`
weighs the candidates pixel by pixel and adds what none of them has.

All of it runs in batches and inside TorchScript, which takes constants as default values only.
Shapes: B batch, C channels, K copies, H, W pixels; a hole is 1 where the picture is unknown.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FILM_SWEEPS = 6
"""Red-black sweeps per level; the level below starts from the answer above, so few will do."""
SHEET_STEPS = 8
"""Steps of conjugate gradients per level of the biharmonic fill."""
OVER_RELAXATION = 1.6
RING = 6
"""Width in pixels of the surroundings that a copy has to match."""
APART = 5
"""Two copies differ by more than this shift, in pixels."""


def soap_film(
    image_BCHW: Tensor,
    hole_B1HW: Tensor,
    sweeps: int = FILM_SWEEPS,
    relaxation: float = OVER_RELAXATION,
) -> Tensor:
    """Fill the hole so that every pixel is the mean of its four neighbours, nearly."""
    colours, holes = pyramid(image_BCHW, hole_B1HW)
    fill = _flat(colours[-1], holes[-1])
    for level in range(len(colours) - 1, -1, -1):
        colour, hole = colours[level], holes[level]
        height, width = colour.shape[-2], colour.shape[-1]
        fill = F.interpolate(fill, size=[height, width], mode="bilinear", align_corners=False)
        fill = colour + hole * (fill - colour)
        y = torch.arange(height, device=colour.device).reshape(-1, 1)
        x = torch.arange(width, device=colour.device).reshape(1, -1)
        red = ((x + y) % 2).to(colour.dtype) * hole * relaxation
        black = hole * relaxation - red
        for _ in range(sweeps):
            fill = fill + red * (_neighbours(fill) / 4 - fill)
            fill = fill + black * (_neighbours(fill) / 4 - fill)
    return fill


def bent_sheet(image_BCHW: Tensor, hole_B1HW: Tensor, steps: int = SHEET_STEPS) -> Tensor:
    """Fill the hole with the least bent surface that continues the rim, nearly.

    Minimises the squared Laplacian by conjugate gradients, from coarse to fine.
    """
    colours, holes = pyramid(image_BCHW, hole_B1HW)
    fill = _flat(colours[-1], holes[-1])
    for level in range(len(colours) - 1, -1, -1):
        colour, hole = colours[level], holes[level]
        size = [colour.shape[-2], colour.shape[-1]]
        fill = F.interpolate(fill, size=size, mode="bicubic", align_corners=False)
        fill = colour + hole * (fill.clamp(-0.5, 1.5) - colour)
        residual = -hole * _bending(fill)
        direction = residual
        energy = residual.square().sum((2, 3), keepdim=True)
        for _ in range(steps):
            bent = hole * _bending(direction)
            step = energy / (direction * bent).sum((2, 3), keepdim=True).clamp(min=1e-12)
            fill = fill + step * direction
            residual = residual - step * bent
            after = residual.square().sum((2, 3), keepdim=True)
            direction = residual + after / energy.clamp(min=1e-12) * direction
            energy = after
    return fill


def pyramid(image_BCHW: Tensor, hole_B1HW: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Colours and holes at full size, half size ... A cell is a hole if most of it is unknown."""
    known = 1.0 - hole_B1HW
    colour, weight = image_BCHW * known, known
    colours, holes = [colour], [hole_B1HW]
    while min(weight.shape[-2], weight.shape[-1]) > 2:
        colour = F.avg_pool2d(colour, 2, ceil_mode=True)
        weight = F.avg_pool2d(weight, 2, ceil_mode=True)
        hole = (weight < 0.5).to(weight.dtype)
        colours.append(colour / weight.clamp(min=1e-6) * (1.0 - hole))
        holes.append(hole)
    return colours, holes


def copies(film_B3HW: Tensor, hole_B1HW: Tensor, count: int, apart: int = APART) -> Tensor:
    """The `count` places that match the surroundings best, moved into the hole: (B, count*3, H, W).

    `film_B3HW` is the picture with its hole filled, which stands in where a copy would be unknown.
    """
    height, width = film_B3HW.shape[-2], film_B3HW.shape[-1]
    cost_BHW = mismatch(film_B3HW, hole_B1HW)
    batch = cost_BHW.shape[0]
    y = torch.arange(height, device=cost_BHW.device)
    x = torch.arange(width, device=cost_BHW.device)
    flat_B3P = film_B3HW.flatten(2)
    found = []
    for _ in range(count):
        best_B = cost_BHW.flatten(1).argmin(1)
        down_B1, right_B1 = (best_B // width)[:, None], (best_B % width)[:, None]
        rows_BH, columns_BW = (y[None] + down_B1) % height, (x[None] + right_B1) % width
        from_BHW = rows_BH[:, :, None] * width + columns_BW[:, None, :]
        from_B3P = from_BHW.reshape(batch, 1, -1).expand(batch, 3, height * width)
        moved_B3HW = flat_B3P.gather(2, from_B3P).reshape(film_B3HW.shape)
        found.append(moved_B3HW)
        # Distances on a ring: the shifts wrap around, as the Fourier transform has them.
        dy_BH = (y[None] - down_B1 + height // 2) % height - height // 2
        dx_BW = (x[None] - right_B1 + width // 2) % width - width // 2
        near_BHW = (dy_BH.abs() <= apart)[:, :, None] & (dx_BW.abs() <= apart)[:, None, :]
        cost_BHW = cost_BHW + 1e3 * near_BHW.to(cost_BHW.dtype)
    moved = torch.cat(found, 1)
    film = film_B3HW.repeat(1, count, 1, 1)
    return moved + soap_film(film - moved, hole_B1HW, 3)


def mismatch(film_B3HW: Tensor, hole_B1HW: Tensor, reach: int = RING) -> Tensor:
    """For every shift, how badly the moved picture fits around the hole: (B, H, W), low is good.

    The mean squared difference of details in a ring around the hole, all shifts at once by FFT,
    plus a charge for moving parts of the hole, or the picture's border, into the hole.
    """
    size = [film_B3HW.shape[-2], film_B3HW.shape[-1]]
    coarse = F.avg_pool2d(film_B3HW, 8)
    detail = film_B3HW - F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    barred = F.pad(hole_B1HW[:, :, 1:-1, 1:-1], [1, 1, 1, 1], value=1.0)
    usable = 1.0 - barred
    ring = F.max_pool2d(hole_B1HW, 2 * reach + 1, 1, reach) - hole_B1HW
    count = ring.sum((2, 3)).clamp(min=1.0)
    energy = detail.square().sum(1, keepdim=True)
    here = torch.cat((ring, ring * detail, ring * energy, hole_B1HW), 1)
    there = torch.cat((usable * energy, -2.0 * usable * detail, usable, 4.0 * barred), 1)
    product = torch.fft.rfft2(here).conj() * torch.fft.rfft2(there)
    differences = torch.fft.irfft2(product[:, :5].sum(1), s=size)
    overlap = torch.fft.irfft2(product[:, 5], s=size)
    seen = torch.fft.irfft2(
        torch.fft.rfft2(ring[:, 0]).conj() * torch.fft.rfft2(usable[:, 0]), s=size
    )
    area = hole_B1HW.sum((2, 3)).clamp(min=1.0)
    mean = differences / seen.clamp(min=1.0) + (seen < 0.4 * count[:, :, None]).to(seen.dtype)
    return mean + 0.2 * overlap / area[:, :, None]


def _flat(colour: Tensor, hole: Tensor) -> Tensor:
    """The mean of what is known, everywhere; grey where nothing is."""
    known = (1.0 - hole).sum((2, 3), keepdim=True)
    mean = colour.sum((2, 3), keepdim=True) / known.clamp(min=1.0)
    return torch.where(known > 0, mean, torch.full_like(mean, 0.5)).expand(colour.shape)


def _neighbours(x: Tensor) -> Tensor:
    """The sum of the four neighbours; beyond the border lies the border pixel again."""
    padded = F.pad(x, [1, 1, 1, 1], mode="replicate")
    return (
        padded[:, :, :-2, 1:-1]
        + padded[:, :, 2:, 1:-1]
        + padded[:, :, 1:-1, :-2]
        + padded[:, :, 1:-1, 2:]
    )


def _bending(x: Tensor) -> Tensor:
    """The Laplacian of the Laplacian."""
    x = _neighbours(x) - 4.0 * x
    return _neighbours(x) - 4.0 * x
