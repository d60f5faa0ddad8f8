"""The one resize of images and masks to the size of a detector."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fitted(images_B3HW: Tensor, size: int) -> Tensor:
    """uint8 images at (size, size) in channels_last memory; bilinear with antialias, ratio ignored.

    An image that has the size already is not touched.
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
        images_B3HW = smooth.round_().clamp_(0, 255).to(torch.uint8)
    return images_B3HW.contiguous(memory_format=torch.channels_last)


def fitted_masks(masks_BHW: Tensor, size: int) -> Tensor:
    """uint8 masks at (size, size), each cell that of the nearest pixel."""
    if masks_BHW.shape[1:] == (size, size):
        return masks_BHW
    return F.interpolate(masks_BHW[:, None], (size, size), mode="nearest-exact")[:, 0]
