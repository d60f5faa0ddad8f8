"""Convolutions with fewer multiplications: minimal filtering after Winograd, in float32.

    maps_BDhw = conv2d(maps_BCHW, weight_DCrr, bias_D)    # as F.conv2d, up to rounding

A tile of 4 x 4 outputs of a convolution with r x r taps costs (4 + r - 1)² products per pair of
channels instead of 16 r²: 49 instead of 256 for r = 4, 36 instead of 144 for r = 3. Tiles and
filters are transformed by small matrices, multiplied in a batch of matrix products, and transformed
back (Lavin, Gray, "Fast algorithms for convolutional neural networks", CVPR 2016). Rounding errors
stay within a few times those of a direct convolution.

It is used where it is faster: in float32 on a CPU, with many channels. A processor that multiplies
bfloat16 in tiles is served better by its own convolution, and exporters know only that.

Shapes: B batch; C input and D output channels; H, W inputs; h, w outputs; y, x tiles per column and
row; N numbers of a tile before (n x n) and M after (m x m) the convolution; R taps (r x r).
"""

from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.device import recorded

# Outputs of a tile per side. Larger tiles save more and round worse.
SIDE = 4
# With fewer channels, or fewer cells of a map, the transforms cost more than they save.
LEAST_CHANNELS = 128
LEAST_CELLS = 1024
# Larger blocks of memory go back to the system when they are freed and cost page faults again.
BAND_BYTES = 24 * 2**20
# Where the polynomials are evaluated, besides at infinity; small numbers round least.
_POINTS = (0, 1, -1, 2, -2, Fraction(1, 2))


def conv2d(
    maps_BCHW: Tensor, weight_DCrr: Tensor, bias_D: Tensor, padding: int = 0, dilation: int = 1
) -> Tensor:
    """The convolution's output (B, D, h, w), channels last where this module computes it."""
    taps = weight_DCrr.shape[2]
    if not in_eager_float32_on_cpu(maps_BCHW):
        return F.conv2d(maps_BCHW, weight_DCrr, bias_D, padding=padding, dilation=dilation)
    if taps == 1 and not padding:
        # PyTorch converts a single image to channels first for this.
        found_BhwD = F.linear(maps_BCHW.permute(0, 2, 3, 1), weight_DCrr[:, :, 0, 0], bias_D)
        return found_BhwD.permute(0, 3, 1, 2)
    if (
        taps not in (3, 4)
        or min(weight_DCrr.shape[:2]) < LEAST_CHANNELS
        or maps_BCHW[0, 0].numel() < LEAST_CELLS
    ):
        return F.conv2d(maps_BCHW, weight_DCrr, bias_D, padding=padding, dilation=dilation)
    maps_BCHW = F.pad(maps_BCHW, (padding,) * 4) if padding else maps_BCHW
    height, width = (side - dilation * (taps - 1) for side in maps_BCHW.shape[2:])
    # Every dilation-th row and column is an image of its own, on which the taps are neighbours.
    phases = _phases(maps_BCHW, dilation) if dilation > 1 else maps_BCHW
    found_BhwD = _Winograd.apply(phases, weight_DCrr, bias_D)
    found = found_BhwD.permute(0, 3, 1, 2)
    if dilation > 1:
        inner = (side - taps + 1 for side in phases.shape[2:])
        found = _joined(found[:, :, : next(inner), : next(inner)], dilation)
    return found[:, :, :height, :width]


def in_eager_float32_on_cpu(maps_BCHW: Tensor) -> bool:
    """Whether the maps are for this module, and not for an exporter or another device's kernels."""
    return (
        maps_BCHW.device.type == "cpu"
        and maps_BCHW.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not recorded()
    )


class _Winograd(torch.autograd.Function):
    """An unpadded convolution of stride 1, on whole tiles: outputs (B, h, w, D), rounded up.

    Image by image, so that its memory is one image's.
    """

    @staticmethod
    def forward(ctx, maps_BCHW, weight_DCrr, bias_D):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(maps_BCHW, weight_DCrr)
        taps = weight_DCrr.shape[2]
        filters_NCD = _filters(weight_DCrr).transpose(1, 2)
        rows, columns = (-(-(side - taps + 1) // SIDE) for side in maps_BCHW.shape[2:])
        found = maps_BCHW.new_empty(len(maps_BCHW), rows * SIDE, columns * SIDE, len(weight_DCrr))
        for place, first, last in _bands(len(found), rows, columns, filters_NCD):
            tiles_NTC = _tiles(maps_BCHW[place], first, last, columns, taps)
            products_NTD = torch.bmm(tiles_NTC, filters_NCD)
            out_MT = _matrices(taps)[0] @ products_NTD.flatten(1)
            out_mmyxD = out_MT.view(SIDE, SIDE, last - first, columns, -1)
            target = found[place].unflatten(1, (columns, SIDE)).unflatten(0, (rows, SIDE))
            torch.add(out_mmyxD.permute(2, 0, 3, 1, 4), bias_D, out=target[first:last])
        return found

    @staticmethod
    def backward(ctx, grad_BhwD):  # type: ignore[no-untyped-def]
        maps_BCHW, weight_DCrr = ctx.saved_tensors
        needs_maps, needs_weight, needs_bias = ctx.needs_input_grad
        batch, channels, height, width = maps_BCHW.shape
        taps = weight_DCrr.shape[2]
        side = SIDE + taps - 1
        outputs, taps_to, windows = _matrices(taps)
        filters_NDC = _filters(weight_DCrr)
        rows, columns = (cells // SIDE for cells in grad_BhwD.shape[1:3])
        grad_ByyxxD = grad_BhwD.unflatten(2, (columns, SIDE)).unflatten(1, (rows, SIDE))
        weight_NDC = torch.zeros_like(filters_NDC) if needs_weight else None
        # Windows overlap: what exceeds a tile belongs to the tile after it.
        around = maps_BCHW.new_zeros(
            (batch, rows + 1, SIDE, columns + 1, SIDE, channels) if needs_maps else 0
        )
        for place, first, last in _bands(batch, rows, columns, filters_NDC):
            part = grad_ByyxxD[place, first:last].permute(1, 3, 0, 2, 4)
            grad_NT = outputs.T @ part.reshape(SIDE**2, -1)
            grad_NTD = grad_NT.view(len(filters_NDC), (last - first) * columns, -1)
            if weight_NDC is not None:
                tiles_NTC = _tiles(maps_BCHW[place], first, last, columns, taps)
                weight_NDC.baddbmm_(grad_NTD.transpose(1, 2), tiles_NTC)
            if not needs_maps:
                continue
            tiles_NT = windows.T @ torch.bmm(grad_NTD, filters_NDC).flatten(1)
            tiles = tiles_NT.view(side, side, last - first, columns, channels)
            tiles = tiles.permute(2, 0, 3, 1, 4)
            for down in (0, 1):
                for right in (0, 1):
                    part = tiles[:, down * SIDE :, :, right * SIDE :][:, :SIDE, :, :SIDE]
                    around[place, first + down : last + down, : part.shape[1],
                           right : columns + right, : part.shape[3]] += part  # fmt: skip
        grads: list[Tensor | None] = [None, None, None]
        if needs_maps:
            whole_BHWC = around.flatten(3, 4).flatten(1, 2)[:, :height, :width]
            grads[0] = whole_BHWC.permute(0, 3, 1, 2)
        if weight_NDC is not None:
            taps_RDC = (taps_to.T @ weight_NDC.flatten(1)).view(taps, taps, *weight_DCrr.shape[:2])
            grads[1] = taps_RDC.permute(2, 3, 0, 1)
        if needs_bias:
            grads[2] = grad_BhwD.sum((0, 1, 2))
        return tuple(grads)


def _bands(batch: int, rows: int, columns: int, filters: Tensor) -> Iterator[tuple[int, int, int]]:
    """Image, first and last + 1 row of tiles of bands whose products take `BAND_BYTES`."""
    numbers, *channels = filters.shape
    height = max(1, BAND_BYTES // (4 * numbers * max(channels) * columns))
    for place in range(batch):
        for first in range(0, rows, height):
            yield place, first, min(rows, first + height)


def _tiles(image_CHW: Tensor, first: int, last: int, columns: int, taps: int) -> Tensor:
    """Transformed windows (N, tiles, C) of rows of tiles, which overlap by taps - 1."""
    rows = last - first
    image_CHW = image_CHW[:, first * SIDE : last * SIDE + taps - 1]
    channels, height, width = image_CHW.shape
    # The last windows may reach beyond the image.
    spare = (0, columns * SIDE + taps - 1 - width, 0, rows * SIDE + taps - 1 - height)
    image_HWC = F.pad(image_CHW, spare).permute(1, 2, 0).contiguous()
    side = SIDE + taps - 1
    down, right, _ = image_HWC.stride()
    windows = image_HWC.as_strided(
        (side, side, rows, columns, channels), (down, right, SIDE * down, SIDE * right, 1)
    )
    found_NT = _matrices(taps)[2] @ windows.reshape(side**2, -1)
    return found_NT.view(side**2, rows * columns, channels)


def _filters(weight_DCrr: Tensor) -> Tensor:
    """Transformed filters (N, D, C)."""
    outputs, inputs, taps, _ = weight_DCrr.shape
    taps_RDC = weight_DCrr.permute(2, 3, 0, 1).reshape(taps**2, -1)
    return (_matrices(taps)[1] @ taps_RDC).view(-1, outputs, inputs)


def _phases(maps_BCHW: Tensor, step: int) -> Tensor:
    """Every step-th row and column as an image: (step² B, C, H/step, W/step), zeros at the end."""
    height, width = maps_BCHW.shape[2:]
    even = F.pad(maps_BCHW, (0, -width % step, 0, -height % step)).permute(0, 2, 3, 1)
    split = even.unflatten(2, (-1, step)).unflatten(1, (-1, step))
    return split.permute(2, 4, 0, 1, 3, 5).flatten(0, 2).permute(0, 3, 1, 2)


def _joined(phases: Tensor, step: int) -> Tensor:
    """The image of its phases: the inverse of `_phases`."""
    split = phases.permute(0, 2, 3, 1).unflatten(0, (step, step, -1))
    return split.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


@cache
def _matrices(taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices (M, N) of the outputs, (N, R) of the filters and (N, N) of the windows, in float32.

    Toom and Cook: outputs and taps as polynomials are evaluated at points, multiplied there, and
    the product is interpolated. The transpose of that is a filter of a window.
    """
    side = SIDE + taps - 1
    points = [Fraction(point) for point in _POINTS[: side - 1]]
    # At infinity a polynomial is its leading coefficient.
    outputs = [[p**i for p in points] + [Fraction(i == SIDE - 1)] for i in range(SIDE)]
    scales = [_product([p - q for q in points if q != p]) for p in points]
    filters = [[p**j / scale for j in range(taps)] for p, scale in zip(points, scales, strict=True)]
    filters.append([Fraction(j == taps - 1) for j in range(taps)])
    windows = [[*_monic([q for q in points if q != p]), Fraction(0)] for p in points]
    windows.append(_monic(points))
    # The same along both directions.
    with torch.inference_mode(False):
        return tuple(  # type: ignore[return-value]
            torch.kron(one, one).float()
            for one in (
                torch.tensor([[float(value) for value in row] for row in rows], dtype=torch.float64)
                for rows in (outputs, filters, windows)
            )
        )


def _product(values: list[Fraction]) -> Fraction:
    found = Fraction(1)
    for value in values:
        found *= value
    return found


def _monic(roots: list[Fraction]) -> list[Fraction]:
    """Coefficients, lowest first, of the polynomial with these roots and leading coefficient 1."""
    found = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *found], [-root * value for value in found] + [Fraction(0)]
        found = [high + low for high, low in zip(shifted, scaled, strict=True)]
    return found
