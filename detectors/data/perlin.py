"""Corrupted pictures for detectors that learn to undo damage: blobs of Perlin noise, filled.

    corrupted_B3HW, mask_BHW = corrupt(images_B3HW, "perlin_self")

The recipe is that of DRAEM (Zavrtanik et al., ICCV 2021) as DeSTSeg uses it: noise with 1 to 32
cells along each axis, turned by up to 90 degrees, is thresholded, and inside the blobs the picture
gives way to a texture by an opacity. Everything is drawn at once for a batch, on the pictures'
device, from torch's global generator.

Shapes: B batch; H, W picture; 3 colour (RGB uint8, 0-255); K textures; S their side; L lattice.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError

Noise = Literal["perlin_self", "perlin_dtd", "perlin_gauss"]
"""What fills the blobs: a scrambled picture of the batch, a texture from a folder, Gauss noise."""

OCTAVES = 6
"""Cells along an axis are 2^0 to 2^5."""
THRESHOLD = 0.5
LATTICE = 48
"""Gradients along an axis: 32 cells, turned by 45 degrees, reach over 46 of them."""
OPACITY = 0.8
"""The picture's share inside a blob is uniform from 0 to this."""
SIGMA = (0.1, 0.5)
"""Deviations of the Gauss noise, of the range from black to white."""
BLOCKS = 8
"""A scrambled picture is cut into so many blocks along each axis."""
JITTER = 0.5
"""Brightness, contrast and saturation of a texture change by up to this share."""


def corrupt(
    images_B3HW: Tensor, noise: Noise = "perlin_self", textures_K3SS: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Damaged copies (uint8) and where they may differ (bool, BHW); the rest is untouched.

    A blob mask may be empty. `perlin_dtd` needs textures (uint8) and raises UserError without.
    """
    mask_BHW = perlin_mask(len(images_B3HW), images_B3HW.shape[2:], images_B3HW.device)
    clean = images_B3HW.float()
    if noise == "perlin_gauss":
        low, high = SIGMA
        sigma_B111 = low + (high - low) * _uniform(images_B3HW)
        damaged = clean + 255 * sigma_B111 * torch.randn_like(clean)
    else:
        texture = _texture(images_B3HW, noise, textures_K3SS)
        share_B111 = OPACITY * _uniform(images_B3HW)
        damaged = torch.lerp(texture, clean, share_B111)
    damaged = damaged.round_().clamp_(0, 255).to(torch.uint8)
    return torch.where(mask_BHW[:, None], damaged, images_B3HW), mask_BHW


def perlin_mask(batch: int, size_HW: torch.Size, device: torch.device) -> Tensor:
    """(B, H, W) bool: where turned Perlin noise of random scales exceeds the threshold."""
    return perlin(batch, size_HW, device) > THRESHOLD


def perlin(batch: int, size_HW: torch.Size, device: torch.device) -> Tensor:
    """(B, H, W) float32 Perlin noise within about -1 and 1; scales and angle differ per picture."""
    height, width = size_HW
    cells_B2 = 2.0 ** torch.randint(0, OCTAVES, (batch, 2), device=device)
    angle_B = math.pi * (torch.rand(batch, device=device) - 0.5)
    turn_BLL = 2 * math.pi * torch.rand(batch, LATTICE * LATTICE, device=device)
    # Pixel centres about the middle, turned, then in cells; a picture twice as large has the same.
    y_H1 = ((torch.arange(height, device=device) + 0.5) / height - 0.5)[:, None]
    x_1W = ((torch.arange(width, device=device) + 0.5) / width - 0.5)[None]
    sine, cosine = angle_B.sin()[:, None, None], angle_B.cos()[:, None, None]
    y_BHW = (cosine * y_H1 + sine * x_1W) * cells_B2[:, 0, None, None] + LATTICE / 2
    x_BHW = (cosine * x_1W - sine * y_H1) * cells_B2[:, 1, None, None] + LATTICE / 2
    row_BHW, column_BHW = y_BHW.floor(), x_BHW.floor()
    y_BHW, x_BHW = y_BHW - row_BHW, x_BHW - column_BHW
    corner_BHW = (row_BHW * LATTICE + column_BHW).long()

    def slope(down: int, right: int) -> Tensor:
        """What the gradient at one corner of each pixel's cell says about the pixel."""
        place = (corner_BHW + (down * LATTICE + right)).flatten(1)
        along_y = turn_BLL.sin().gather(1, place).view_as(y_BHW)
        along_x = turn_BLL.cos().gather(1, place).view_as(x_BHW)
        return along_y * (y_BHW - down) + along_x * (x_BHW - right)

    fade_y, fade_x = _fade(y_BHW), _fade(x_BHW)
    upper = torch.lerp(slope(0, 0), slope(0, 1), fade_x)
    lower = torch.lerp(slope(1, 0), slope(1, 1), fade_x)
    return math.sqrt(2) * torch.lerp(upper, lower, fade_y)


def scrambled(images_B3HW: Tensor) -> Tensor:
    """The pictures cut into 8 x 8 blocks that are put together in another order, each its own."""
    batch, _, height, width = images_B3HW.shape
    tall, wide = -(-height // BLOCKS), -(-width // BLOCKS)
    order_BN = torch.rand(batch, BLOCKS * BLOCKS, device=images_B3HW.device).argsort(1)
    if (tall * BLOCKS, wide * BLOCKS) != (height, width):
        spare = (0, wide * BLOCKS - width, 0, tall * BLOCKS - height)
        images_B3HW = F.pad(images_B3HW.float(), spare, mode="replicate").to(images_B3HW.dtype)
    blocks = images_B3HW.reshape(batch, 3, BLOCKS, tall, BLOCKS, wide)
    blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(1, 2)  # B N tall wide 3
    blocks = blocks[torch.arange(batch, device=order_BN.device)[:, None], order_BN]
    blocks = blocks.unflatten(1, (BLOCKS, BLOCKS)).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(batch, 3, tall * BLOCKS, wide * BLOCKS)[..., :height, :width]


def jittered(images_B3HW: Tensor) -> Tensor:
    """Random brightness, contrast and saturation for each picture; float32, 0 to 255."""
    pixels = images_B3HW.float()
    bright, contrast, saturation = (1 + JITTER * (2 * _uniform(images_B3HW) - 1) for _ in range(3))
    pixels = pixels * bright
    grey_B1HW = pixels.mean(1, keepdim=True)
    pixels = torch.lerp(grey_B1HW, pixels, saturation)
    mean_B111 = grey_B1HW.mean((2, 3), keepdim=True)
    return torch.lerp(mean_B111, pixels, contrast).clamp_(0, 255)


def _texture(images_B3HW: Tensor, noise: Noise, textures_K3SS: Tensor | None) -> Tensor:
    batch, _, height, width = images_B3HW.shape
    device = images_B3HW.device
    if noise == "perlin_self":
        # A turn of a random order: never the picture itself, unless it is the only one.
        order_B = torch.randperm(batch, device=device)
        other_B = torch.empty_like(order_B).scatter_(0, order_B, order_B.roll(1))
        return jittered(scrambled(images_B3HW[other_B]))
    if textures_K3SS is None:
        raise UserError("noise perlin_dtd needs a folder of textures: set `textures` to one")
    chosen_B = torch.randint(0, len(textures_K3SS), (batch,), device=device)
    chosen_B3SS = textures_K3SS[chosen_B.to(textures_K3SS.device)].to(device)
    if chosen_B3SS.shape[2:] != (height, width):
        chosen_B3SS = F.interpolate(chosen_B3SS.float(), (height, width), mode="bilinear")
    return jittered(chosen_B3SS)


def _uniform(images_B3HW: Tensor) -> Tensor:
    """One number from 0 to 1 per picture, (B, 1, 1, 1)."""
    return torch.rand(len(images_B3HW), 1, 1, 1, device=images_B3HW.device)


def _fade(along: Tensor) -> Tensor:
    """Perlin's smooth step, whose first two derivatives vanish at the cells' borders."""
    return along * along * along * (along * (along * 6 - 15) + 10)
