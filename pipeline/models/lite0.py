"""EfficientNet-Lite0, trained on ImageNet, as a frozen feature extractor (Tan and Le, ICML 2019).

    trunk = lite0_trunk(path)
    fine, middle, coarse = trunk(normalise(images_B3HW))

The Lite variants have neither squeeze-and-excite nor swish. The network is that of TensorFlow, with
its padding and timm's names, and timm's bits; timm itself would import 230 MB. Stages behind stride
16 are not run; checkpoints of detectors hold them. It has the interface of `backbone.Trunk`.

Shapes: B batch; H, W image; 3 colour (RGB); C channels of a level; h, w = H, W divided by the
level's stride (4, 8, 16), rounded up.
"""

from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.errors import WeightsError
from pipeline.models.backbone import DEVIATION_3, MEAN_3, Levels
from pipeline.models.device import recorded
from pipeline.models.weights.safe_load import load_state

# Channels of the levels at strides 4, 8 and 16, and the stages that end in them.
CHANNELS = (24, 40, 112)
LEVELS = (1, 2, 4)
# The publisher's input is (255 x - 127) / 128 for x in 0-1.
OFFSET, SCALE = 127.0, 128.0
# Of each stage: how many times the channels expand inside a block, channels, blocks, side of the
# kernel, stride.
STEM = 32
STAGES = (
    (1, 16, 1, 3, 1), (6, 24, 2, 3, 2), (6, 40, 2, 5, 2), (6, 80, 3, 3, 2), (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2), (6, 320, 1, 3, 1),
)  # fmt: skip
# Tensors of the publisher's file: those of stem and stages, then of a head that is not used.
TENSORS = 296


class Lite0Trunk(nn.Module):
    """The network; `forward` takes images from `backbone.normalise`.

    It is always frozen: evaluation mode, no gradients. Levels have the channels last in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels = CHANNELS
        self.frozen = True
        self.network = _Network()
        self.requires_grad_(False)
        self.eval()

    def forward(self, images_B3HW: Tensor) -> Levels:
        # `normalise` subtracts ImageNet's mean; this network was trained on another range.
        mean_311 = images_B3HW.new_tensor(MEAN_3).view(3, 1, 1)
        deviation_311 = images_B3HW.new_tensor(DEVIATION_3).view(3, 1, 1)
        inputs_B3HW = ((images_B3HW * deviation_311 + mean_311) * 255 - OFFSET) / SCALE
        inputs_B3HW = inputs_B3HW.contiguous(memory_format=torch.channels_last)
        # On a CPU one image a thread: what a layer writes is then still in the cache when the next
        # one reads it. In float32 that takes two thirds of the time of eight.
        split = inputs_B3HW.device.type == "cpu" and not recorded() and len(inputs_B3HW)
        each = inputs_B3HW.split(torch.get_num_threads()) if split else (inputs_B3HW,)
        levels = zip(*map(self.network, each), strict=True)
        fine_BChw, middle_BChw, coarse_BChw = (torch.cat(level_BChw) for level_BChw in levels)
        return fine_BChw, middle_BChw, coarse_BChw

    def shortened(self) -> "Lite0Trunk":
        """Without the stages that are not run, three quarters of the weights; the same trunk."""
        del self.network.blocks[LEVELS[-1] + 1 :]
        return self

    def freeze(self) -> "Lite0Trunk":
        """Nothing to do: it is frozen from the start."""
        return self

    def train(self, mode: bool = True) -> "Lite0Trunk":
        """Stay in evaluation mode, whatever a detector that contains the trunk does."""
        super().train(False)
        return self


class _Network(nn.Module):
    """Stem and stages; `forward` gives the levels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _convolution(3, STEM, 3, 2)
        self.bn1 = _Norm(STEM, active=True)
        stages, inputs = [], STEM
        for expand, channels, count, side, stride in STAGES:
            blocks = []
            for number in range(count):
                # Only the first block of a stage halves the resolution.
                step = stride if number == 0 else 1
                blocks.append(_Block(inputs, channels, expand, side, step))
                inputs = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)

    def forward(self, inputs_B3HW: Tensor) -> list[Tensor]:
        x_BChw, levels = self.bn1(self.conv_stem(inputs_B3HW)), []
        for number, stage in enumerate(self.blocks[: LEVELS[-1] + 1]):
            x_BChw = stage(x_BChw)
            if number in LEVELS:
                levels.append(x_BChw)
        return levels


class _Block(nn.Module):
    """Expand the channels, filter each by itself, project them; add the input where it fits."""

    def __init__(self, inputs: int, outputs: int, expand: int, side: int, stride: int) -> None:
        super().__init__()
        inner = inputs * expand
        self.residual = inputs == outputs and stride == 1
        filtered = _convolution(inner, inner, side, stride, groups=inner)
        # In the order of the publisher's file, by timm's names.
        if expand == 1:
            self.conv_dw, self.bn1 = filtered, _Norm(inner, active=True)
            self.conv_pw, self.bn2 = _convolution(inner, outputs), _Norm(outputs, active=False)
        else:
            self.conv_pw, self.bn1 = _convolution(inputs, inner), _Norm(inner, active=True)
            self.conv_dw, self.bn2 = filtered, _Norm(inner, active=True)
            self.conv_pwl, self.bn3 = _convolution(inner, outputs), _Norm(outputs, active=False)

    def forward(self, x_BChw: Tensor) -> Tensor:
        y_BChw = x_BChw
        for layer in self.children():
            y_BChw = layer(y_BChw)
        return y_BChw + x_BChw if self.residual else y_BChw


class _Norm(nn.BatchNorm2d):
    """A batch norm with the activation that follows it."""

    def __init__(self, channels: int, *, active: bool) -> None:
        super().__init__(channels, eps=1e-3)
        self.act = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, x_BChw: Tensor) -> Tensor:
        activated: Tensor = self.act(super().forward(x_BChw))
        return activated


class _Same(nn.Conv2d):
    """A convolution padded as in TensorFlow: an odd pixel goes to the right and below."""

    def forward(self, x_BChw: Tensor) -> Tensor:
        (side, _), (stride, _) = self.kernel_size, self.stride
        pads = [max((-(-n // stride) - 1) * stride + side - n, 0) for n in x_BChw.shape[2:]]
        around = [part for pad in reversed(pads) for part in (pad // 2, pad - pad // 2)]
        return super().forward(F.pad(x_BChw, around))


def _convolution(
    inputs: int, outputs: int, side: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    kind, padding = (_Same, 0) if stride > 1 else (nn.Conv2d, side // 2)
    made = kind(inputs, outputs, side, stride, padding, groups=groups, bias=False)
    # Without weights: as wide as the layer needs, for features of about unit size.
    nn.init.normal_(made.weight, 0, (2 / (side * side * outputs // groups)) ** 0.5)
    return made


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
    """Copy the publisher's tensors, which have other names but the same order."""
    own = trunk.network.state_dict()
    found = load_state(path)
    # Pairing by order alone could mix up tensors of a related network; their shapes tell.
    pairs = list(zip(own.items(), found.values(), strict=False))
    fits = len(found) == TENSORS and all(mine.shape == theirs.shape for (_, mine), theirs in pairs)
    if not fits:
        raise WeightsError(
            f"{path}: expected EfficientNet-Lite0 ({TENSORS} tensors), got another network "
            f"({len(found)} tensors); run `anomalysmith weights pull efficientnet-lite0`"
        )
    with torch.no_grad():
        trunk.network.load_state_dict({name: theirs for (name, _), theirs in pairs})


def _fold_batch_norms(network: nn.Module) -> None:
    """Move each batch norm into the convolution before it; only the activations stay.

    A frozen batch norm is a scale and a shift per channel. Folded, and with the channels last, the
    trunk takes 0.7 of its time in float32 and under half of it in bfloat16.
    """
    for parent in list(network.modules()):
        children = list(parent.named_children())
        for (_, convolution), (name, norm) in pairwise(children):
            if not (isinstance(convolution, nn.Conv2d) and isinstance(norm, _Norm)):
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
            setattr(parent, name, norm.act)
