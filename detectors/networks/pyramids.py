"""Frozen feature pyramids of four levels, strides 4, 8, 16 and 32: GLCF's teachers.

    pyramid = pyramid_of("swin-tiny", path, size=224)
    f0, f1, f2, f3 = pyramid(normalise(images_B3HW))    # (B, C, H / stride, W / stride)

Swin's levels are the inputs of its stages, right after patch embedding or merging, as in GLCF's
released code (Yao et al., arXiv 2303.05768); stage 4 itself is never needed. A CNN's levels are the
outputs of layer1 to layer4. For a trunk that ends at layer3 the fourth level is the mean of the
third over 2 x 2 cells, so every pyramid has a level of stride 32.

Shapes: B batch; H, W image; C channels of a level; h, w its cells.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detectors.base import Batches
from detectors.networks.level_statistics import LevelStatistics
from pipeline.errors import WeightsError
from pipeline.models.backbone import normalise
from pipeline.models.trunks import AnyTrunk, trunk_of
from pipeline.models.weights.safe_load import load_state

# Input pixels per cell of the four levels.
STRIDES = (4, 8, 16, 32)
Channels = tuple[int, int, int, int]
Levels = tuple[Tensor, Tensor, Tensor, Tensor]


class Pyramid(nn.Module):
    """Base class of frozen pyramids, which are always in evaluation mode."""

    channels: Channels

    def freeze(self) -> "Pyramid":
        """Turn gradients off and switch to evaluation mode, permanently."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> "Pyramid":
        """Ignore `mode`: a parent's `train()` must not activate DropPath or batch norm."""
        return super().train(False)

    def forward(self, images_B3HW: Tensor) -> Levels:
        """The levels of normalised images, from fine to deep."""
        raise NotImplementedError


class SwinPyramid(Pyramid):
    """Swin-T up to the merging before stage 4: 96, 192, 384, 768 channels, 13.3 M parameters.

    Windows are 7 x 7 cells at every `size` of the image, as in pre-training; levels whose side is
    no multiple of 7 are padded.
    """

    channels = (96, 192, 384, 768)

    def __init__(self, size: int) -> None:
        super().__init__()
        from timm.models.swin_transformer import SwinTransformer

        # `always_partition` keeps windows of 7 where a level is smaller than a window; timm would
        # shrink the window otherwise, and the position biases would no longer fit the weights.
        whole = SwinTransformer(
            img_size=size, window_size=7, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24),
            drop_path_rate=0.0, num_classes=0, always_partition=True,
        )  # fmt: skip
        self.patch_embed = whole.patch_embed
        self.layers = whole.layers
        # Stage 4 is its merging only: its blocks come after the last level.
        self.layers[3].blocks = nn.Identity()

    def forward(self, images_B3HW: Tensor) -> Levels:
        # timm's Swin works with channels last.
        level_BhwC = self.patch_embed(images_B3HW)
        levels = [level_BhwC]
        stages: list[Any] = list(self.layers)
        # timm counts a merging to the stage that follows it.
        for stage, following in pairwise(stages):
            level_BhwC = following.downsample(stage.blocks(level_BhwC))
            levels.append(level_BhwC)
        f0, f1, f2, f3 = (level.permute(0, 3, 1, 2) for level in levels)
        return f0, f1, f2, f3


class StandardisedPyramid(Pyramid):
    """A pyramid whose channels have zero mean and unit variance over the training normals.

    Levels are float32. Not in the GLCF paper: raw features differ in variance between levels, so
    some levels can dominate the loss.
    """

    def __init__(self, pyramid: Pyramid) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.channels = pyramid.channels
        self.statistics = LevelStatistics(pyramid.channels)

    def measure(self, normals: Batches) -> None:
        """Measure the channels on `normals`."""
        self.statistics.measure(lambda images: self.pyramid(normalise(images)), normals)

    def forward(self, images_B3HW: Tensor) -> Levels:
        f0, f1, f2, f3 = self.statistics(self.pyramid(images_B3HW))
        return f0, f1, f2, f3


class TrunkPyramid(Pyramid):
    """A three-level trunk; its fourth level is the mean of the third over 2 x 2 cells."""

    def __init__(self, trunk: AnyTrunk) -> None:
        super().__init__()
        self.trunk = trunk
        first, second, third = trunk.channels
        self.channels = (first, second, third, third)

    def forward(self, images_B3HW: Tensor) -> Levels:
        # Strides 4, 8, 16, and pooled to 32.
        fine, middle, coarse = self.trunk(images_B3HW)
        return fine, middle, coarse, F.avg_pool2d(coarse, 2)


class WidePyramid(Pyramid):
    """Wide ResNet-50-2, layer1 to layer4: 256, 512, 1024, 2048 channels.

    The teacher of GLCF's later code version.
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import wide_resnet50_2

        self.network = wide_resnet50_2(weights=None)
        # Only the features are used.
        self.network.fc = nn.Identity()

    def forward(self, images_B3HW: Tensor) -> Levels:
        net = self.network
        stem = net.maxpool(net.relu(net.bn1(net.conv1(images_B3HW))))
        # layer1 to layer4 have strides 4 to 32.
        f0 = net.layer1(stem)
        f1 = net.layer2(f0)
        f2 = net.layer3(f1)
        return f0, f1, f2, net.layer4(f2)


def pyramid_of(teacher: str, weights: Path | None, size: int) -> Pyramid:
    """The frozen pyramid of a weights registry entry; randomly initialised without a file.

    Files may hold more than is used, such as a classifier head or a last stage.
    """
    if teacher == "swin-tiny":
        pyramid = SwinPyramid(size)
        _fill(pyramid, weights, "Swin-T (swin_tiny_patch4_window7_224)")
        return pyramid.freeze()
    if teacher == "wide-resnet50-2":
        wide = WidePyramid()
        _fill(wide.network, weights, "Wide ResNet-50-2")
        return wide.freeze()
    return TrunkPyramid(trunk_of(teacher, weights)).freeze()


def _fill(network: nn.Module, weights: Path | None, name: str) -> None:
    """Fill every tensor of the network; WeightsError when the file has no fitting one."""
    if weights is None:
        return
    found = _merging_first(load_state(weights))
    own = network.state_dict()
    for key, value in own.items():
        # Batch norm's counter has no effect in evaluation mode, and some files omit it.
        if key.endswith("num_batches_tracked"):
            found[key] = value
        elif key not in found or found[key].shape != value.shape:
            raise WeightsError(
                f"{weights}: expected the {name}, got another network without a fitting {key}; "
                "pass the matching file"
            )
    # Tensors that the network lacks, such as those of a head, are dropped.
    network.load_state_dict({key: found[key] for key in own})


def _merging_first(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors renamed as in current timm, which counts a merging to the stage after it.

    The original Swin files count it to the stage before.
    """
    # In current files stage 0 has no merging.
    if "layers.0.downsample.reduction.weight" not in state:
        return state
    renamed = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) + 1)
        renamed[".".join(parts)] = value
    return renamed
