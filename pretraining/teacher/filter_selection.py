"""Initialise a slim trunk with a selection of a wide one's filters, which shortens training.

Per residual stream and per inner convolution, the channels are selected that best span all of them
on a batch of images (pivoted QR); kernels are cut to the selected inputs and outputs. Batch norm
then restores the statistics of each kept channel: the wide network's mean and deviation.
Shapes: B batch; C channels; h, w cells; N cells of a whole batch.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from scipy.linalg import qr
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from pipeline.models.backbone import Trunk

# Number of cells that a selection is based on; QR of all cells would be slow.
CELLS = 4000


@torch.no_grad()
def inherit(slim: Trunk, wide: Trunk, images_B3HW: Tensor) -> None:
    """Fill `slim` in place; the selection is made on the normalised images `images_B3HW`."""
    seen: dict[nn.Module, Tensor] = {}
    # Record the output of every batch norm of the wide network in one pass.
    norms = [module for module in wide.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_hook(_recorder(seen)) for norm in norms]
    device = wide.conv1.weight.device
    levels = wide(images_B3HW.to(device))
    for hook in hooks:
        hook.remove()
    # All blocks of a stage add to one residual stream, so they share one selection of channels.
    streams = [_select(level, count) for level, count in zip(levels, slim.channels, strict=True)]
    _copy(slim.conv1, slim.bn1, wide.conv1, wide.bn1, seen, torch.arange(3), streams[0])
    # Walk through the blocks with the selected channels of the stream before and after each.
    inputs = streams[0]
    for number, outputs in zip((1, 2, 3), streams, strict=True):
        small_stage, large_stage = (trunk.get_submodule(f"layer{number}") for trunk in (slim, wide))
        for small, large in zip(small_stage.children(), large_stage.children(), strict=True):
            small, large = cast(BasicBlock, small), cast(BasicBlock, large)
            # Channels inside a block are free, so each block has a selection of its own.
            inner = _select(seen[large.bn1].relu(), small.conv1.out_channels)
            _copy(small.conv1, small.bn1, large.conv1, large.bn1, seen, inputs, inner)
            _copy(small.conv2, small.bn2, large.conv2, large.bn2, seen, inner, outputs)
            # The shortcut of a block that changes width or stride.
            if small.downsample is not None:
                short, full = small.downsample, large.downsample
                _copy(short[0], short[1], full[0], full[1], seen, inputs, outputs)
            inputs = outputs


def _recorder(seen: dict[nn.Module, Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
    def keep(module: nn.Module, _: Any, output_BChw: Tensor) -> None:
        # Clone, because the ReLU that follows works in place.
        seen[module] = output_BChw.clone()

    return keep


def _select(features_BChw: Tensor, count: int) -> Tensor:
    """Indices of the `count` channels that best span the others, ascending."""
    flat_NC = features_BChw.float().permute(0, 2, 3, 1).flatten(0, 2)
    every = max(1, len(flat_NC) // CELLS)
    # Pivoting orders channels by what each adds to the span of those before it.
    order_C = qr(flat_NC[::every].cpu().numpy(), mode="r", pivoting=True)[1]
    return torch.from_numpy(np.sort(order_C[:count]).astype(np.int64))


def _copy(
    small: nn.Conv2d,
    small_norm: nn.BatchNorm2d,
    large: nn.Conv2d,
    large_norm: nn.BatchNorm2d,
    seen: dict[nn.Module, Tensor],
    inputs: Tensor,
    outputs: Tensor,
) -> None:
    """Cut one convolution, and give its batch norm the moments of the channels it keeps."""
    small.weight.copy_(large.weight.cpu()[outputs][:, inputs])
    kept_BChw = seen[large_norm].float().cpu()[:, outputs]
    small_norm.weight.copy_(kept_BChw.std((0, 2, 3)).clamp(min=1e-3))
    small_norm.bias.copy_(kept_BChw.mean((0, 2, 3)))
