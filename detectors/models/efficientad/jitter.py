"""EfficientAD's augmentation: a little more or less brightness, contrast or saturation.

Shapes: B batch; 3 colour (RGB); H, W picture.
"""

import torch
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)


def jittered(images_B3HW: Tensor, strength: float = 0.2) -> Tensor:
    """uint8 images, each with one of the three changed by a factor of 1 - strength to 1 + strength.

    Which one and how much come from torch's global generator on the images' device. A factor blends
    with black, with the picture's mean grey, or with its own grey, as image editors do.
    """
    count, device = len(images_B3HW), images_B3HW.device
    which_B111 = torch.randint(3, (count, 1, 1, 1), device=device)
    factor_B111 = 1 + strength * (2 * torch.rand((count, 1, 1, 1), device=device) - 1)
    images = images_B3HW.float()
    red, green, blue = images.unbind(1)
    grey_B1HW = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue)[:, None]
    anchor_B1HW = torch.where(which_B111 == 1, grey_B1HW.mean((2, 3), keepdim=True), grey_B1HW)
    anchor_B1HW = anchor_B1HW * (which_B111 > 0)
    blended = anchor_B1HW + factor_B111 * (images - anchor_B1HW)
    return blended.round_().clamp_(0, 255).to(torch.uint8)
