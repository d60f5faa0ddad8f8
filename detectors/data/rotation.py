"""Random rotations of training images, as DeSTSeg's released code makes them for some categories.

    images_B3HW, masks_BHW = rotated("full", images_B3HW, masks_BHW)

`slight` turns by up to 5 degrees either way, `full` first by a multiple of 90 degrees. What comes
into view from outside the image is grey.

Shapes: B batch; H side of a square image; 3 colour (RGB uint8, 0-255).
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Rotations = Literal["none", "slight", "full"]

# Largest slight rotation, in degrees.
SLIGHT = 5.0
# Grey level of pixels from outside the image.
OUTSIDE = 114


def rotated(rotations: Rotations, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Images (B, 3, H, H) and masks (B, H, H), turned; the angle is the same in all tensors.

    Angles are drawn per item from torch's global generator. Images are interpolated bilinearly,
    masks keep their values; outside the image they are 0.
    """
    if rotations == "none":
        return tensors
    device, count = tensors[0].device, len(tensors[0])
    views = list(tensors)
    if rotations == "full":
        quarters_B = torch.randint(0, 4, (count,), device=device).tolist()
        views = [
            torch.stack([item.rot90(n, (-2, -1)) for item, n in zip(view, quarters_B, strict=True)])
            for view in views
        ]
    angle_B = math.radians(SLIGHT) * (2 * torch.rand(count, device=device) - 1)
    return tuple(_turned(view, angle_B) for view in views)


def _turned(images: Tensor, angle_B: Tensor) -> Tensor:
    """Images or masks about their centre, positive angles (radians) counter-clockwise."""
    sine_B, cosine_B, zero_B = angle_B.sin(), angle_B.cos(), torch.zeros_like(angle_B)
    # The place in the input from which each output pixel is read.
    rows = [
        torch.stack(row, 1) for row in ((cosine_B, -sine_B, zero_B), (sine_B, cosine_B, zero_B))
    ]
    is_mask = images.ndim == 3
    planes = images[:, None] if is_mask else images
    grid = F.affine_grid(torch.stack(rows, 1), list(planes.shape), align_corners=False)
    # `grid_sample` fills with 0, so the fill value is moved there.
    fill = 0 if is_mask else OUTSIDE
    how = "nearest" if is_mask else "bilinear"
    turned = F.grid_sample(planes.float() - fill, grid, mode=how, align_corners=False) + fill
    turned = turned.round_().to(images.dtype)
    if is_mask:
        return turned[:, 0]
    return turned.contiguous(memory_format=torch.channels_last)
