"""EfficientNet-Lite0, trained on ImageNet, as a frozen feature extractor (Tan and Le, ICML 2019).

    trunk = lite0_trunk(path)
    fine, middle, coarse = trunk(normalise(images_B3HW))

The Lite variants have neither squeeze-and-excite nor swish. The network is timm's; only the stages
up to stride 16 are kept. It has the interface of `backbone.Trunk`.

Shapes: B batch; H, W image; 3 colour (RGB); C channels of a level; h, w = H, W divided by the
level's stride (4, 8, 16), rounded up.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.errors import WeightsError
from pipeline.models.backbone import DEVIATION_3, MEAN_3, Levels
from pipeline.models.weights.safe_load import load_state

# Channels of the levels at strides 4, 8 and 16.
CHANNELS = (24, 40, 112)
# The publisher's input is (255 x - 127) / 128 for x in 0-1.
OFFSET, SCALE = 127.0, 128.0


class Lite0Trunk(nn.Module):
    """The stem and the blocks up to stride 16; `forward` takes images from `backbone.normalise`.

    It is always frozen: evaluation mode, no gradients. Levels have the channels last in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        # timm takes more than a second to import.
        import timm

        self.channels = CHANNELS
        self.frozen = True
        self.network = timm.create_model(
            "tf_efficientnet_lite0", pretrained=False, features_only=True, out_indices=(1, 2, 3)
        )
        self.requires_grad_(False)
        self.eval()

    def forward(self, images_B3HW: Tensor) -> Levels:
        # `normalise` subtracts ImageNet's mean; this network was trained on another range.
        mean_311 = images_B3HW.new_tensor(MEAN_3).view(3, 1, 1)
        deviation_311 = images_B3HW.new_tensor(DEVIATION_3).view(3, 1, 1)
        inputs_B3HW = ((images_B3HW * deviation_311 + mean_311) * 255 - OFFSET) / SCALE
        inputs_B3HW = inputs_B3HW.contiguous(memory_format=torch.channels_last)
        fine_BChw, middle_BChw, coarse_BChw = self.network(inputs_B3HW)
        return fine_BChw, middle_BChw, coarse_BChw

    def freeze(self) -> "Lite0Trunk":
        """Nothing to do: it is frozen from the start."""
        return self

    def train(self, mode: bool = True) -> "Lite0Trunk":
        """Stay in evaluation mode, whatever a detector that contains the trunk does."""
        super().train(False)
        return self


def lite0_trunk(weights: Path | None = None) -> Lite0Trunk:
    """The frozen trunk; `weights` is the publisher's file, without it the trunk is random.

    WeightsError when the file belongs to another network.
    """
    trunk = Lite0Trunk()
    if weights is not None:
        _load(trunk, weights)
    _fold_batch_norms(trunk.network)
    return trunk.to(memory_format=torch.channels_last)


def _load(trunk: Lite0Trunk, path: Path) -> None:
    """Copy the publisher's tensors, which have other names but the same order as timm's."""
    import timm

    whole = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    found = load_state(path)
    # Pairing by order alone could mix up tensors of a related network; their shapes tell.
    pairs = zip(whole.items(), found.values(), strict=False)
    fits = len(whole) == len(found) and all(
        mine.shape == theirs.shape for (_, mine), theirs in pairs
    )
    if not fits:
        raise WeightsError(
            f"{path}: expected EfficientNet-Lite0 ({len(whole)} tensors), got another network "
            f"({len(found)} tensors); run `anomalysmith weights pull efficientnet-lite0`"
        )
    named = dict(zip(whole, found.values(), strict=True))
    with torch.no_grad():
        trunk.network.load_state_dict({name: named[name] for name in trunk.network.state_dict()})


def _fold_batch_norms(network: nn.Module) -> None:
    """Move each batch norm into the convolution before it; only the activations stay.

    A frozen batch norm is a scale and a shift per channel. Folded, and with the channels last, the
    trunk takes 0.7 of its time in float32 and under half of it in bfloat16.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            # Only a batch norm that counts per batch has no statistics.
            assert norm.running_mean is not None
            assert norm.running_var is not None
            folded = fuse_conv_bn_weights(
                convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps,
                norm.weight, norm.bias,
            )  # fmt: skip
            convolution.weight, convolution.bias = (
                nn.Parameter(tensor.detach(), requires_grad=False) for tensor in folded
            )
            # timm's batch norm holds the activation that follows it.
            setattr(parent, name, norm.act)
