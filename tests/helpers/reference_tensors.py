"""What the second implementations of the detectors start from: copied weights, scaled images.

Shapes: B batch; 3 colour; H, W image.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]


def copied(detector: torch.nn.Module) -> dict[str, Tensor]:
    """The detector's tensors, as leaves of their own."""
    return {
        name: value.detach().clone().requires_grad_(value.is_floating_point())
        for name, value in detector.state_dict().items()
    }


def scaled(images_B3HW: Tensor) -> Tensor:
    """uint8 images with ImageNet's mean and deviation, as torchvision's transforms do it."""
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    return (images_B3HW / 255 - mean) / deviation
