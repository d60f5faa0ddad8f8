"""Training loss of the small LaMa: a pixel term and a perceptual term.

The pixel term is the logarithm of the squared error, which is PSNR: every hole has the same weight,
whether its background is plain or textured. Alone it favours blurry fills, so features of a frozen
ImageNet network are compared as well: the perceptual loss of LaMa's paper with a smaller network.
Shapes: B batch; H, W image; 3 colour (RGB, 0 to 1); a hole is 1 where the image is filled.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ResNet-18 up to its third stage, ImageNet; beside the checkout, not shipped.
RESNET = Path(__file__).resolve().parents[3] / "shared/weights/resnet18_layers1-3.safetensors"
# Squared error below which the loss hardly improves: sensor noise of 2.5 grey levels.
FLOOR = 1e-4


class Features(nn.Module):
    """Channel-normalised features of a frozen ResNet-18, one map per stage."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Path = RESNET, stages: int = 3) -> None:
        super().__init__()
        # Imported here: only training and the table need the feature network.
        from safetensors.torch import load_file
        from torchvision.models import resnet18

        network = resnet18(weights=None)
        state = {name: value.float() for name, value in load_file(weights).items()}
        # Not strict: the file ends after the third stage.
        network.load_state_dict(state, strict=False)
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3][:stages])
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225])[:, None, None])
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, image_B3HW: Tensor) -> list[Tensor]:
        """RGB in [0, 1] -> the maps, float32, finest first."""
        x = self.stem((image_B3HW - self.mean) / self.deviation)
        found = []
        for stage in self.stages:
            x = stage(x)
            # Unit length per position, as in LPIPS: directions are compared, not magnitudes.
            found.append(F.normalize(x.float(), dim=1))
        return found

    def distance(self, one_B3HW: Tensor, other_B3HW: Tensor) -> Tensor:
        """Squared distance, mean over positions and summed over stages, per image: (B,)."""
        # The truth needs no gradient, which saves half of the memory.
        with torch.no_grad():
            wanted = self(other_B3HW)
        pairs = zip(self(one_B3HW), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


def pixel_loss(filled_B3HW: Tensor, truth_B3HW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """Common logarithm of the mean squared error in the hole, mean over images: -PSNR / 10."""
    error_B = (hole_B1HW * (filled_B3HW - truth_B3HW)).square().sum((1, 2, 3))
    # Per pixel and channel; at least one, for an empty hole.
    area_B = 3 * hole_B1HW.sum((1, 2, 3)).clamp(min=1.0)
    return torch.log10(error_B / area_B + FLOOR).mean()


def in_hole(filled_B3HW: Tensor, truth_B3HW: Tensor, hole_B1HW: Tensor) -> Tensor:
    """The fill inside the hole and the truth outside, so that they differ in the hole alone."""
    return torch.lerp(truth_B3HW, filled_B3HW, hole_B1HW)
