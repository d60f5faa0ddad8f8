"""DeSTSeg and SemRec a second time, from the papers' equations and DeSTSeg's public code.

Functions on the tensors of a detector's state dict, which share no code with the detectors. The
`weights` of a copy require gradients, so a test can compare those as well. `training` uses the
batch norm statistics of the batch, otherwise the stored ones count.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells of a level.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from reference_tensors import Weights, scaled
from torch import Tensor


def norm(weights: Weights, name: str, maps: Tensor, training: bool) -> Tensor:
    """Batch norm."""
    if training:
        mean = maps.mean((0, 2, 3), keepdim=True)
        variance = (maps - mean).square().mean((0, 2, 3), keepdim=True)
    else:
        mean = weights[f"{name}.running_mean"].detach()[None, :, None, None]
        variance = weights[f"{name}.running_var"].detach()[None, :, None, None]
    scale, shift = (weights[f"{name}.{kind}"][None, :, None, None] for kind in ("weight", "bias"))
    return scale * (maps - mean) / (variance + 1e-5).sqrt() + shift


def stage(weights: Weights, name: str, maps: Tensor, training: bool, stride: int = 1) -> Tensor:
    """Two basic blocks of a ResNet; the first has a 1 x 1 shortcut where the size changes."""
    for block in (f"{name}.0", f"{name}.1"):
        step = stride if block.endswith("0") else 1
        inner = F.conv2d(maps, weights[f"{block}.conv1.weight"], None, step, 1)
        inner = F.relu(norm(weights, f"{block}.bn1", inner, training))
        inner = F.conv2d(inner, weights[f"{block}.conv2.weight"], None, 1, 1)
        inner = norm(weights, f"{block}.bn2", inner, training)
        if f"{block}.downsample.0.weight" in weights:
            maps = F.conv2d(maps, weights[f"{block}.downsample.0.weight"], None, step)
            maps = norm(weights, f"{block}.downsample.1", maps, training)
        maps = F.relu(maps + inner)
    return maps


def encoder(weights: Weights, name: str, inputs: Tensor, training: bool) -> list[Tensor]:
    """ResNet-18 without its last stage: layer1, layer2, layer3."""
    maps = F.conv2d(inputs, weights[f"{name}.conv1.weight"], None, 2, 3)
    maps = F.max_pool2d(F.relu(norm(weights, f"{name}.bn1", maps, training)), 3, 2, 1)
    first = stage(weights, f"{name}.layer1", maps, training)
    second = stage(weights, f"{name}.layer2", first, training, stride=2)
    return [first, second, stage(weights, f"{name}.layer3", second, training, stride=2)]


def teacher(weights: Weights, images: Tensor) -> list[Tensor]:
    """Three levels; frozen, always with the stored statistics."""
    with torch.no_grad():
        return encoder(weights, "teacher", scaled(images), training=False)


def student(weights: Weights, name: str, images: Tensor, training: bool) -> list[Tensor]:
    """A whole ResNet-18 and four residual stages back up, without skips."""
    deep = encoder(weights, f"{name}.trunk", scaled(images), training)[2]
    maps = stage(weights, f"{name}.decoder.layer4", deep, training, stride=2)
    maps = stage(weights, f"{name}.decoder.stage4", maps, training)
    levels = []
    for number in (3, 2, 1):
        maps = doubled(maps)
        maps = stage(weights, f"{name}.decoder.stage{number}", maps, training)
        levels.insert(0, maps)
    return levels


def unet(weights: Weights, name: str, images: Tensor, training: bool) -> list[Tensor]:
    """Five poolings down, three steps up with skips of strides 16, 8 and 4; three levels."""

    def twice(name: str, maps: Tensor) -> Tensor:
        for number in (0, 3):
            maps = F.conv2d(maps, weights[f"{name}.{number}.weight"], None, 1, 1)
            maps = F.relu(norm(weights, f"{name}.{number + 1}", maps, training))
        return maps

    down = [twice(f"{name}.encoders.0", scaled(images))]
    for number in range(1, 6):
        down.append(twice(f"{name}.encoders.{number}", F.max_pool2d(down[-1], 2)))
    maps, levels = down[5], []
    for number, across in enumerate((down[4], down[3], down[2])):
        maps = twice(f"{name}.decoders.{number}", torch.cat([doubled(maps), across], 1))
        levels.insert(0, maps)
    return levels


def doubled(maps: Tensor) -> Tensor:
    """Bilinear upsampling by two."""
    size = (2 * maps.shape[2], 2 * maps.shape[3])
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def unit(maps: Tensor) -> Tensor:
    """Features divided by their length."""
    return maps / (maps.square().sum(1, keepdim=True).sqrt() + 1e-12)


def distances(decoded: Sequence[Tensor], target: Sequence[Tensor]) -> list[Tensor]:
    """1 - cosine of every level, (B, h, w)."""
    return [1 - (unit(a) * unit(b)).sum(1) for a, b in zip(decoded, target, strict=True)]


def product_map(maps: Sequence[Tensor], size: int) -> Tensor:
    """The product of the levels on the finest level's cells, upsampled to (B, size, size)."""
    product = torch.ones(())
    for map_Bhw in maps:
        product = product * F.interpolate(map_Bhw[:, None], maps[0].shape[1:], mode="bilinear")
    return F.interpolate(product, (size, size), mode="bilinear")[:, 0]


def top_score(maps_BHW: Tensor, top: int) -> Tensor:
    """Mean of the `top` highest pixels."""
    return maps_BHW.flatten(1).sort(1, descending=True).values[:, :top].mean(1)


def segmented(
    weights: Weights, decoded: Sequence[Tensor], target: Sequence[Tensor], training: bool
) -> Tensor:
    """The segmentation network's output, (B, h, w) in 0-1, in float64, so it does not saturate."""

    def layer(name: str, maps: Tensor, padding: int = 0, dilation: int = 1) -> Tensor:
        name = f"segmentation.{name}"
        maps = F.conv2d(maps, weights[f"{name}.0.weight"], None, 1, padding, dilation)
        return F.relu(norm(weights, f"{name}.1", maps, training))

    size = decoded[0].shape[2:]
    inputs = torch.cat(
        [
            F.interpolate(-unit(a) * unit(b), size, mode="bilinear")
            for a, b in zip(target, decoded, strict=True)
        ],
        1,
    )
    maps = stage(weights, "segmentation.blocks", inputs, training)
    context = [layer("whole", F.adaptive_avg_pool2d(maps, 1)).repeat(1, 1, *size)]
    for number, dilation in enumerate((6, 12, 18)):
        context.append(layer(f"ranges.{number}", maps, padding=dilation, dilation=dilation))
    maps = layer("head.0", layer("merge", torch.cat(context, 1), padding=1), padding=1)
    weight, bias = weights["segmentation.head.1.weight"], weights["segmentation.head.1.bias"]
    return F.conv2d(maps, weight, bias).double().sigmoid()[:, 0]


def segmentation_losses(found_Bhw: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss with gamma 4 and L1 against the mask, bilinearly resized to a quarter."""
    # With pixel centres aligned, the four inner pixels of a cell have equal weights.
    batch, height, width = mask_BHW.shape
    blocks = mask_BHW.float().reshape(batch, height // 4, 4, width // 4, 4)
    truth = (blocks[:, :, 1:3, :, 1:3].mean((2, 4)) >= 0.5).double()
    right = found_Bhw * truth + (1 - found_Bhw) * (1 - truth)
    entropy = F.binary_cross_entropy(found_Bhw, truth, reduction="none")
    return (entropy * (1 - right) ** 4).mean(), (found_Bhw - truth).abs().mean()
