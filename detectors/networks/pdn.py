"""The patch description network of EfficientAD: four or six convolutions that see 33 pixels.

    student = Pdn("medium", outputs=768)
    features_BChw = student(normalise(images_B3HW))         # 56 x 56 cells of 256 x 256 pixels
    second_BChw = student(normalised_B3HW, slice(384, 768)) # one half of the outputs, for less

Batzner, Heckler, König, "EfficientAD", WACV 2024. Without padding a cell sees its own 33 x 33
pixels and nothing of a border; the border of 16 pixels has no cells, so a map has H/4 - 8 of them.
With padding, as the teacher is distilled, it has H/4.

Shapes: B batch; 3 colour; H, W picture; C channels; h, w cells.
"""

import re
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.errors import WeightsError
from pipeline.models.weights.safe_load import load_state

Kind = Literal["small", "medium"]
STRIDE = 4
"""Pixels from one cell to the next."""
BORDER = 4
"""Cells per side that an unpadded network does not have."""

# Output channels and kernel of every convolution but the last; the first two are pooled after.
_SMALL = ((128, 4), (256, 4), (256, 3))
_MEDIUM = ((256, 4), (512, 4), (512, 1), (512, 3))
_PADDING = {4: 3, 3: 1, 1: 0}


def cells(size: int) -> int:
    """Cells per side that an unpadded network makes of a picture of `size` pixels."""
    return size // STRIDE - 2 * BORDER


class Pdn(nn.Module):
    """A patch description network; `width` scales its hidden channels, 1 is the paper's.

    `medium` ends in two convolutions of `outputs` channels with a ReLU between, `small` in one.
    """

    def __init__(self, kind: Kind, outputs: int, width: float = 1.0, padded: bool = False) -> None:
        super().__init__()
        layers = [(scaled(count, width), kernel) for count, kernel in layers_of(kind)]
        tail = [(outputs, 4), (outputs, 1)] if kind == "medium" else [(outputs, 4)]
        self.outputs = outputs
        self.pool_padding = int(padded)
        self.convs = nn.ModuleList()
        inputs = 3
        for place, (count, kernel) in enumerate([*layers, *tail]):
            padding = _PADDING[kernel] if padded and place < len(layers) else 0
            self.convs.append(nn.Conv2d(inputs, count, kernel, padding=padding))
            inputs = count

    def forward(self, images_B3HW: Tensor, part: slice = slice(None)) -> Tensor:
        """Features (B, C, h, w) of normalised images, of all outputs or of a part of them."""
        return self.head(self.trunk(images_B3HW), part)

    def trunk(self, images_B3HW: Tensor) -> Tensor:
        """All layers but the last."""
        maps_BChw = images_B3HW
        for place in range(len(self.convs) - 1):
            maps_BChw = self.layer(place, maps_BChw)
        return maps_BChw

    def layer(self, place: int, maps_BChw: Tensor) -> Tensor:
        """One convolution with its ReLU and, after the first two, its pooling."""
        maps_BChw = F.relu_(self.convs[place](maps_BChw))
        if place < 2:
            maps_BChw = F.avg_pool2d(maps_BChw, 2, 2, self.pool_padding)
        return maps_BChw

    def head(self, maps_BChw: Tensor, part: slice = slice(None)) -> Tensor:
        """The last layer, which is linear, or a part of its outputs."""
        last = self.convs[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        return F.conv2d(maps_BChw, last.weight[part], last.bias[part])


def layers_of(kind: Kind) -> tuple[tuple[int, int], ...]:
    """Channels and kernels of the hidden convolutions at the paper's width."""
    return _MEDIUM if kind == "medium" else _SMALL


def scaled(channels: int, width: float) -> int:
    """Channels at another width: a multiple of 8, at least 8."""
    return max(8, round(channels * width / 8) * 8)


def load_pdn(pdn: Pdn, path: Path) -> None:
    """Fill a network from a state dict, whatever its layers are called.

    Public files name them `0.weight` (a sequence, with gaps where ReLUs stand) or `conv1.weight`,
    some behind a prefix; ours are `convs.0.weight`. The order of the numbers is the order of the
    layers. WeightsError when the tensors belong to another network.
    """
    state = load_state(path)
    convolutions: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "bias" or (kind == "weight" and value.ndim == 4):
            number = tuple(int(digits) for digits in re.findall(r"\d+", layer))
            convolutions.setdefault(number, {})[kind] = value
    found = {
        f"convs.{place}.{kind}": value
        for place, number in enumerate(sorted(convolutions))
        for kind, value in convolutions[number].items()
    }
    try:
        pdn.load_state_dict(found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} should hold a patch description network of {len(pdn.convs)} convolutions and "
            f"{pdn.outputs} outputs, but holds another network: {reason}; "
            "name the file that belongs to it"
        ) from error
