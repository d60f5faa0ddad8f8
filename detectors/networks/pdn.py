"""EfficientAD's patch description network (PDN): four or six convolutions, 33 px receptive field.

    student = Pdn("medium", outputs=768)
    features_BChw = student(normalise(images_B3HW))         # 56 x 56 cells of 256 x 256 pixels
    second_BChw = student(normalised_B3HW, slice(384, 768)) # one half of the outputs, for less

Batzner, Heckler, König, "EfficientAD", WACV 2024; layers as in the paper and its public code.
Without padding every cell sees exactly its own 33 x 33 pixels and no zeros; there are H/4 - 8 cells
per side, and none over the outer 16 pixels. With padding, as in the distillation of the teacher,
there are H/4 cells.

Shapes: B batch; 3 colour; H, W image; C channels; h, w cells.
"""

import re
from pathlib import Path
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from detectors.networks import winograd
from pipeline.errors import WeightsError
from pipeline.models.weights.safe_load import load_state

Kind = Literal["small", "medium"]
# Pixels from one cell to the next.
STRIDE = 4
# Cells that an unpadded network lacks on each side, compared with a padded one.
BORDER = 4

# Output channels and kernel of every hidden convolution. A pooling follows the first two.
_SMALL = ((128, 4), (256, 4), (256, 3))
_MEDIUM = ((256, 4), (512, 4), (512, 1), (512, 3))
# Padding of a padded network by kernel size, as in the distillation of the paper.
_PADDING = {4: 3, 3: 1, 1: 0}


def cells_per_side(size: int) -> int:
    """Cells per side of an unpadded network's map for images of `size` pixels; 56 for 256."""
    return size // STRIDE - 2 * BORDER


class Pdn(nn.Module):
    """A patch description network; `width` scales its hidden channels, 1 is the paper's.

    `medium` (PDN-M) ends in two convolutions of `outputs` channels with a ReLU between, `small`
    (PDN-S) in one. A student has twice the teacher's outputs.
    """

    def __init__(self, kind: Kind, outputs: int, width: float = 1.0, padded: bool = False) -> None:
        super().__init__()
        layers = [(scaled_channels(count, width), kernel) for count, kernel in hidden_layers(kind)]
        tail = [(outputs, 4), (outputs, 1)] if kind == "medium" else [(outputs, 4)]
        self.outputs = outputs
        self.pool_padding = int(padded)
        self.convs = nn.ModuleList()
        inputs = 3
        for place, (count, kernel) in enumerate([*layers, *tail]):
            # The convolutions behind the hidden ones have no padding in either case: the larger map
            # of a padded network already makes up for their kernel of 4.
            padding = _PADDING[kernel] if padded and place < len(layers) else 0
            self.convs.append(nn.Conv2d(inputs, count, kernel, padding=padding))
            inputs = count

    def forward(self, images_B3HW: Tensor, part: slice = slice(None)) -> Tensor:
        """Features (B, C, h, w) of normalised images; `part` computes some of the outputs only."""
        return self.head(self.trunk(images_B3HW), part)

    def trunk(self, images_B3HW: Tensor) -> Tensor:
        """All layers but the last."""
        maps_BChw = images_B3HW
        for place in range(len(self.convs) - 1):
            maps_BChw = self.layer(place, maps_BChw)
        return maps_BChw

    def layer(self, place: int, maps_BChw: Tensor) -> Tensor:
        """One convolution with its ReLU and, after the first two, its pooling."""
        convolution = self.convs[place]
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        maps_BChw = winograd.conv2d(
            maps_BChw, convolution.weight, convolution.bias,
            int(convolution.padding[0]), convolution.dilation[0],
        )  # fmt: skip
        maps_BChw = F.relu_(maps_BChw)
        if place < 2:
            maps_BChw = F.avg_pool2d(maps_BChw, 2, 2, self.pool_padding)
        return maps_BChw

    def head(self, maps_BChw: Tensor, part: slice = slice(None)) -> Tensor:
        """The last layer, which is linear; `part` selects some of its outputs."""
        # Slicing the weights saves the products of the outputs that are not needed.
        last = self.convs[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        return winograd.conv2d(maps_BChw, last.weight[part], last.bias[part])


def hidden_layers(kind: Kind) -> tuple[tuple[int, int], ...]:
    """Channels and kernels of the hidden convolutions at the paper's width."""
    return _MEDIUM if kind == "medium" else _SMALL


def scaled_channels(channels: int, width: float) -> int:
    """Channels at another width: a multiple of 8, as fast kernels need, and at least 8."""
    return max(8, round(channels * width / 8) * 8)


def load_pdn(pdn: Pdn, path: Path) -> None:
    """Fill a network from a state dict, independent of the names of its layers.

    Public files name them `0.weight` (a sequence, with gaps for the ReLUs) or `conv1.weight`, some
    with a prefix; ours are `convs.0.weight`. Layers are matched in the order of their numbers.
    WeightsError when the tensors belong to another network.
    """
    state = load_state(path)
    convolutions: dict[tuple[int, ...], dict[str, Tensor]] = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        # Only 4-D weights are convolutions; files may hold normalisation statistics, too.
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
        # PyTorch lists every mismatch on a line of its own; a user error has one line.
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path}: expected a patch description network of {len(pdn.convs)} convolutions and "
            f"{pdn.outputs} outputs, got another network: {reason}; "
            "pass the matching file"
        ) from error
