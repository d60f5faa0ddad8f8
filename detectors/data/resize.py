"""The one routine that resizes images and masks to the input size of a detector.

Shapes: B batch; H, W image as given; 3 colour (RGB).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_images(images_B3HW: Tensor, size: int) -> Tensor:
    """uint8 images (B, 3, size, size) in channels_last memory; the aspect ratio is not kept.

    Bilinear with antialias, as Pillow resizes. Images of that size keep their pixels. TypeError for
    other shapes and dtypes.
    """
    if images_B3HW.dtype != torch.uint8 or images_B3HW.ndim != 4:
        raise TypeError(
            f"images_B3HW must be (B, 3, H, W) uint8, got {tuple(images_B3HW.shape)} "
            f"{images_B3HW.dtype}"
        )
    if images_B3HW.shape[2:] != (size, size):
        smooth = F.interpolate(
            images_B3HW.float(), (size, size), mode="bilinear", align_corners=False, antialias=True
        )
        # Rounded back to uint8, so training and a stored image of that size give equal pixels.
        images_B3HW = smooth.round_().clamp_(0, 255).to(torch.uint8)
    return images_B3HW.contiguous(memory_format=torch.channels_last)


def resize_masks(masks_BHW: Tensor, size: int) -> Tensor:
    """uint8 masks (B, size, size) by nearest neighbour, so masks stay binary."""
    if masks_BHW.shape[1:] == (size, size):
        return masks_BHW
    # `nearest-exact` samples at pixel centres, as the bilinear resize of the images does; plain
    # `nearest` would shift masks by up to half a pixel.
    return F.interpolate(masks_BHW[:, None], (size, size), mode="nearest-exact")[:, 0]
