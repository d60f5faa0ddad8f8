"""The two resizes of `predict` as matrix products, for graphs that take photographs of any size.

    file -> Pillow's bilinear filter -> stored size of the version -> `resize_images` -> detector

A resize along one axis is linear, so it is a matrix. Products of matrices run in every ONNX
runtime. The antialiased operator `Resize` does not, and onnxruntime's differs from Pillow by up to
13 of 255 at borders when it changes the aspect ratio.

Shapes: B batch; H, W image as given; h, w stored size; S side of the detector's input; 3 colour.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pillow's weights are whole numbers of this size. They are split into two halves, whose products
# with pixels add up exactly in float32 (whole numbers below 2 ** 24).
_ONE, _HALF = 1 << 22, 1 << 11


class FileResize(nn.Module):
    """uint8 images (B, 3, H, W) of any size to (B, 3, S, S) uint8, as `predict` resizes files.

    The stored size gets the very bytes of Pillow. The second resize has PyTorch's weights, too, and
    may round single values that lie halfway the other way.
    """

    down: Tensor
    across: Tensor

    def __init__(self, stored_hw: tuple[int, int], side: int) -> None:
        super().__init__()
        self.stored_hw, self.side = stored_hw, side
        self.register_buffer("down", _torch_weights(stored_hw[0], side))
        self.register_buffer("across", _torch_weights(stored_hw[1], side))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        height, width = self.stored_hw
        stored = _as_pillow(images_B3HW.float(), height, width)
        if (height, width) != (self.side, self.side):
            # PyTorch keeps fractions between the two axes, and rounds half to even.
            stored = (self.down @ (stored @ self.across.T)).round()
        return stored.to(torch.uint8)


def _as_pillow(images_B3HW: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, h, w) float32 whole numbers, equal to those of Pillow's bilinear filter."""
    rows, columns = images_B3HW.shape[2:]
    down, across = _pillow_weights(rows, height), _pillow_weights(columns, width).T
    operands = images_B3HW, down, across
    # Both axes are rounded, so their order matters. Columns first where that shrinks much more.
    if torch.compiler.is_exporting():
        # A branch of the graph, since its photographs have other sizes than the traced one.
        first = (height < rows) & (2 * (columns - width) < rows - height)
        return torch.cond(first, _columns_first, _rows_first, operands)
    if height < rows and 2 * (columns - width) < rows - height:
        return _columns_first(*operands)
    return _rows_first(*operands)


def _rows_first(images_B3HW: Tensor, down: Tensor, across: Tensor) -> Tensor:
    across_hi, across_lo, down_hi, down_lo = *_halves(across), *_halves(down)
    images = _rounded(images_B3HW @ across_hi, images_B3HW @ across_lo)
    return _rounded(down_hi @ images, down_lo @ images)


def _columns_first(images_B3HW: Tensor, down: Tensor, across: Tensor) -> Tensor:
    across_hi, across_lo, down_hi, down_lo = *_halves(across), *_halves(down)
    images = _rounded(down_hi @ images_B3HW, down_lo @ images_B3HW)
    return _rounded(images @ across_hi, images @ across_lo)


def _pillow_weights(before: int, after: int) -> Tensor:
    """(after, before) int64: the shares of a line's pixels in those of the resized line.

    In units of 1 / `_ONE`, rounded half up. A triangle as wide as a pixel of the coarser line on
    each side: enlarging interpolates between neighbours, shrinking averages over all covered
    pixels. Distances are multiplied by 2 * before * after, so that they are whole numbers.
    """
    centres_A1 = (2 * torch.arange(after)[:, None] + 1) * before
    pixels_1B = (2 * torch.arange(before)[None] + 1) * after
    reach = 2 * torch.sym_max(before, after)
    weights_AB = (pixels_1B - centres_A1).abs().neg().add(reach).clamp(min=0)
    totals_A1 = weights_AB.sum(1, keepdim=True)
    return (weights_AB * (2 * _ONE) + totals_A1) // (2 * totals_A1)


def _torch_weights(before: int, after: int) -> Tensor:
    """(after, before) float32: the weights of PyTorch's filter, as it computes them."""
    # Each column is the response to one bright pixel.
    lines = torch.eye(before)[None, None]
    return F.interpolate(lines, (after, before), mode="bilinear", antialias=True)[0, 0]


def _halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    return (weights // _HALF).float(), (weights % _HALF).float()


def _rounded(high: Tensor, low: Tensor) -> Tensor:
    """The weighted sums, rounded half up: floor((high * `_HALF` + low) / `_ONE` + 1/2)."""
    return ((high + _HALF / 2 + (low / _HALF).floor()) / _HALF).floor()
