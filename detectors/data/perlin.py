"""Image corruption for detectors that learn to undo it: blobs of Perlin noise, filled.

    corrupted_B3HW, mask_BHW = corrupt(images_B3HW, "perlin_self")

The recipe is that of DRAEM (Zavrtanik et al., ICCV 2021) as used by DeSTSeg (Zhang et al., CVPR
2023): Perlin noise with 1 to 32 cells along each axis, rotated by up to 90 degrees either way, is
thresholded; inside the blobs a texture is blended over the image. Everything is drawn for a whole
batch at once, on the device of the images, from torch's global generator.

Shapes: B batch; H, W image; 3 colour (RGB uint8, 0-255); K textures; S their side; L lattice.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.errors import UserError

# What fills the blobs: another image of the batch with shuffled blocks, a texture from a folder
# (DTD in the paper), or Gaussian noise added to the image.
Noise = Literal["perlin_self", "perlin_dtd", "perlin_gauss"]

# Cells along an axis are 2^0 to 2^5.
OCTAVES = 6
# Noise above this value belongs to a blob; about 5 % of the pixels.
THRESHOLD = 0.5
# Gradients along an axis: 32 cells rotated by 45 degrees span 46 of them.
LATTICE = 48
# The image keeps a share of 0 to 0.8 inside a blob, drawn uniformly (beta in DRAEM).
OPACITY = 0.8
# Range of the standard deviation of the Gaussian noise, as a share of the range 0 to 255.
SIGMA = (0.1, 0.5)
# Blocks along each axis of an image whose blocks are shuffled.
BLOCKS = 8
# Brightness, contrast and saturation of another image change by factors of 0.5 to 1.5, as its
# colours are those of the image itself. Textures from a folder stay as they are.
JITTER = 0.5


def corrupt(
    images_B3HW: Tensor, noise: Noise = "perlin_self", textures_K3SS: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Corrupted copies (uint8) and their blob masks (B, H, W) bool; other pixels stay as they are.

    A mask can be empty. `perlin_dtd` needs textures (uint8) and raises UserError without them.
    """
    mask_BHW = perlin_mask(len(images_B3HW), images_B3HW.shape[2:], images_B3HW.device)
    clean = images_B3HW.float()
    if noise == "perlin_gauss":
        low, high = SIGMA
        sigma_B111 = low + (high - low) * _uniform(images_B3HW)
        corrupted = clean + 255 * sigma_B111 * torch.randn_like(clean)
    else:
        texture = _texture(images_B3HW, noise, textures_K3SS)
        share_B111 = OPACITY * _uniform(images_B3HW)
        corrupted = torch.lerp(texture, clean, share_B111)
    corrupted = corrupted.round_().clamp_(0, 255).to(torch.uint8)
    return torch.where(mask_BHW[:, None], corrupted, images_B3HW), mask_BHW


def perlin_mask(batch: int, size_HW: torch.Size, device: torch.device) -> Tensor:
    """(B, H, W) bool: where rotated Perlin noise of random scales exceeds the threshold."""
    return perlin(batch, size_HW, device) > THRESHOLD


def perlin(batch: int, size_HW: torch.Size, device: torch.device) -> Tensor:
    """(B, H, W) float32 Perlin noise of about -1 to 1; scales and angle are drawn for every image.

    After Perlin, "Improving noise", SIGGRAPH 2002, in two dimensions.
    """
    height, width = size_HW
    # Order of the draws: scales, angles, then one gradient direction per lattice point.
    cells_B2 = 2.0 ** torch.randint(0, OCTAVES, (batch, 2), device=device)
    angle_B = math.pi * (torch.rand(batch, device=device) - 0.5)
    turn_BLL = 2 * math.pi * torch.rand(batch, LATTICE * LATTICE, device=device)
    # Pixel centres relative to the image centre, rotated, then measured in cells. They do not
    # depend on the resolution, so a larger image shows the same noise.
    y_H1 = ((torch.arange(height, device=device) + 0.5) / height - 0.5)[:, None]
    x_1W = ((torch.arange(width, device=device) + 0.5) / width - 0.5)[None]
    sine, cosine = angle_B.sin()[:, None, None], angle_B.cos()[:, None, None]
    y_BHW = (cosine * y_H1 + sine * x_1W) * cells_B2[:, 0, None, None] + LATTICE / 2
    x_BHW = (cosine * x_1W - sine * y_H1) * cells_B2[:, 1, None, None] + LATTICE / 2
    # Split into the lattice point above and to the left, and the position inside the cell.
    row_BHW, column_BHW = y_BHW.floor(), x_BHW.floor()
    y_BHW, x_BHW = y_BHW - row_BHW, x_BHW - column_BHW
    corner_BHW = (row_BHW * LATTICE + column_BHW).long()

    def slope(down: int, right: int) -> Tensor:
        """Dot product of a corner's gradient with the pixel's offset from that corner."""
        place = (corner_BHW + (down * LATTICE + right)).flatten(1)
        along_y = turn_BLL.sin().gather(1, place).view_as(y_BHW)
        along_x = turn_BLL.cos().gather(1, place).view_as(x_BHW)
        return along_y * (y_BHW - down) + along_x * (x_BHW - right)

    fade_y, fade_x = _fade(y_BHW), _fade(x_BHW)
    upper = torch.lerp(slope(0, 0), slope(0, 1), fade_x)
    lower = torch.lerp(slope(1, 0), slope(1, 1), fade_x)
    # Unit gradients in two dimensions reach sqrt(1/2) at most.
    return math.sqrt(2) * torch.lerp(upper, lower, fade_y)


def shuffle_blocks(images_B3HW: Tensor) -> Tensor:
    """Each image cut into 8 x 8 blocks that are put together in its own random order."""
    batch, _, height, width = images_B3HW.shape
    # Block sizes are rounded up; images of other sizes are padded and cropped again.
    tall, wide = -(-height // BLOCKS), -(-width // BLOCKS)
    order_BN = torch.rand(batch, BLOCKS * BLOCKS, device=images_B3HW.device).argsort(1)
    if (tall * BLOCKS, wide * BLOCKS) != (height, width):
        spare = (0, wide * BLOCKS - width, 0, tall * BLOCKS - height)
        # `replicate` padding is implemented for floats only.
        images_B3HW = F.pad(images_B3HW.float(), spare, mode="replicate").to(images_B3HW.dtype)
    blocks = images_B3HW.reshape(batch, 3, BLOCKS, tall, BLOCKS, wide)
    # Shape (B, N, tall, wide, 3) with N = BLOCKS * BLOCKS.
    blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(1, 2)
    blocks = blocks[torch.arange(batch, device=order_BN.device)[:, None], order_BN]
    blocks = blocks.unflatten(1, (BLOCKS, BLOCKS)).permute(0, 5, 1, 3, 2, 4)
    return blocks.reshape(batch, 3, tall * BLOCKS, wide * BLOCKS)[..., :height, :width]


def jittered(images_B3HW: Tensor) -> Tensor:
    """Random brightness, contrast and saturation for each image; float32, 0 to 255."""
    pixels = images_B3HW.float()
    bright, contrast, saturation = (1 + JITTER * (2 * _uniform(images_B3HW) - 1) for _ in range(3))
    pixels = pixels * bright
    grey_B1HW = pixels.mean(1, keepdim=True)
    pixels = torch.lerp(grey_B1HW, pixels, saturation)
    mean_B111 = grey_B1HW.mean((2, 3), keepdim=True)
    return torch.lerp(mean_B111, pixels, contrast).clamp_(0, 255)


def _texture(images_B3HW: Tensor, noise: Noise, textures_K3SS: Tensor | None) -> Tensor:
    """What fills the blobs of every image, (B, 3, H, W) float32, 0 to 255."""
    batch, _, height, width = images_B3HW.shape
    device = images_B3HW.device
    if noise == "perlin_self":
        # A random cyclic permutation: every image gets the texture of another image, unless the
        # batch has only one.
        order_B = torch.randperm(batch, device=device)
        other_B = torch.empty_like(order_B).scatter_(0, order_B, order_B.roll(1))
        return jittered(shuffle_blocks(images_B3HW[other_B]))
    if textures_K3SS is None:
        raise UserError("noise perlin_dtd needs a folder of textures: set `textures` to its path")
    chosen_B = torch.randint(0, len(textures_K3SS), (batch,), device=device)
    # Textures stay in main memory; only those of this batch move to the device.
    chosen_B3SS = textures_K3SS[chosen_B.to(textures_K3SS.device)].to(device)
    if chosen_B3SS.shape[2:] != (height, width):
        chosen_B3SS = F.interpolate(chosen_B3SS.float(), (height, width), mode="bilinear")
    return chosen_B3SS.float()


def _uniform(images_B3HW: Tensor) -> Tensor:
    """One number from 0 to 1 per image, (B, 1, 1, 1)."""
    return torch.rand(len(images_B3HW), 1, 1, 1, device=images_B3HW.device)


def _fade(along: Tensor) -> Tensor:
    """Perlin's quintic fade; its first two derivatives vanish at the borders of a cell."""
    return along * along * along * (along * (along * 6 - 15) + 10)
