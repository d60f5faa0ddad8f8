"""Outlook attention's window sums and their application on a CPU, with little memory traffic.

    weights_BhefHW = WindowSums.apply(attention, kernel)    # as `outlook_attention.overlapped`
    maps_BHWC = Banded.apply(weights_BhefHW, values_BHWC)   # as `outlook_attention.banded`

The same arithmetic as there, but summands are added in place instead of padded, and gradients are
slices instead of padded slices. The banded matrices are built for one vertical offset at a time and
for stretches of a row, whose matrices have fewer zeros.

Shapes as there; n stretches of a row, T cells of a stretch, P = T + 2K - 2 cells that they see.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# Cells of a stretch, at most.
STRETCH = 32


class WindowSums(torch.autograd.Function):
    """Attention (B, h, K², K², H, W) to weights (B, h, 2K-1, 2K-1, H, W), summed over windows."""

    @staticmethod
    def forward(ctx, attention, kernel):  # type: ignore[no-untyped-def]
        ctx.kernel, reach = kernel, 2 * kernel - 1
        batch, heads, _, _, height, width = attention.shape
        split = attention.unflatten(3, (kernel, kernel)).unflatten(2, (kernel, kernel))
        rows = attention.new_zeros(batch, heads, kernel, reach, kernel, height, width)
        both = attention.new_zeros(batch, heads, reach, reach, height, width)
        for i, offsets, to, of in _shifts(kernel, height):
            rows[:, :, :, offsets, :, to] += split[:, :, i, :, :, :, of]
        for i, offsets, to, of in _shifts(kernel, width):
            both[:, :, :, offsets, :, to] += rows[:, :, i, :, :, :, of]
        return both

    @staticmethod
    def backward(ctx, both):  # type: ignore[no-untyped-def]
        kernel, reach = ctx.kernel, 2 * ctx.kernel - 1
        batch, heads, _, _, height, width = both.shape
        rows = both.new_zeros(batch, heads, kernel, reach, kernel, height, width)
        split = both.new_zeros(batch, heads, kernel, kernel, kernel, kernel, height, width)
        for i, offsets, to, of in _shifts(kernel, width):
            rows[:, :, i, :, :, :, of] = both[:, :, :, offsets, :, to]
        for i, offsets, to, of in _shifts(kernel, height):
            split[:, :, i, :, :, :, of] = rows[:, :, :, offsets, :, to]
        return split.flatten(4, 5).flatten(2, 3), None


def _shifts(kernel: int, length: int) -> Iterator[tuple[int, slice, slice, slice]]:
    """For every place of a window: its offsets, the cells it counts for, and its windows."""
    margin = kernel // 2
    for i in range(kernel):
        shift = i - margin
        offsets = slice(kernel - 1 - i, 2 * kernel - 1 - i)
        to = slice(max(0, shift), length + min(0, shift))
        yield i, offsets, to, slice(max(0, -shift), length - max(0, shift))


class Banded(torch.autograd.Function):
    """One weight per cell and offset, applied to values (B, H, W, C): y(p) = Σ w_p(e) v(p + e)."""

    @staticmethod
    def forward(ctx, weights_BhefHW, values_BHWC):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(weights_BhefHW, values_BHWC)
        height = values_BHWC.shape[1]
        weights = _stretched(weights_BhefHW)
        values = _seen(values_BHWC, weights_BhefHW)
        band_PT, diagonals = _band(weights, values.shape[4])
        found = values.new_zeros(band_PT.shape[0], band_PT.shape[2], values.shape[5])
        for e, weights_e in enumerate(weights):
            diagonals.copy_(weights_e)
            seen = values[e : e + height].flatten(0, 3)
            found.baddbmm_(band_PT.transpose(1, 2), seen)
        found_HBnhTD = found.unflatten(0, weights.shape[1:5])
        return _as_maps(found_HBnhTD)[:, :, : values_BHWC.shape[2]]

    @staticmethod
    def backward(ctx, grad_BHWC):  # type: ignore[no-untyped-def]
        weights_BhefHW, values_BHWC = ctx.saved_tensors
        _, heads, reach, _, height, width = weights_BhefHW.shape
        weights = _stretched(weights_BhefHW)
        values = _seen(values_BHWC, weights_BhefHW)
        band_PT, diagonals = _band(weights, values.shape[4])
        stretches, stretch = weights.shape[3], weights.shape[6]
        grad = F.pad(grad_BHWC, (0, 0, 0, stretches * stretch - width))
        grad = grad.unflatten(3, (heads, -1)).unflatten(2, (stretches, stretch))
        grad_NTD = grad.permute(1, 0, 2, 4, 3, 5).flatten(0, 3)
        of_weights, of_values = torch.empty_like(weights), torch.zeros_like(values)
        products, of_diagonals = _band(weights, values.shape[4])
        for e in range(reach):
            seen = values[e : e + height].flatten(0, 3)
            torch.bmm(seen, grad_NTD.transpose(1, 2), out=products)
            of_weights[e] = of_diagonals
            diagonals.copy_(weights[e])
            of_values[e : e + height].flatten(0, 3).baddbmm_(band_PT, grad_NTD)
        # Stretches see some cells of their neighbours.
        margin = reach // 2
        around = values.new_zeros(
            *values.shape[:2], stretches * stretch + 2 * margin, heads, values.shape[5]
        )
        for n in range(stretches):
            around[:, :, n * stretch : (n + 1) * stretch + 2 * margin] += of_values[
                :, :, n
            ].transpose(2, 3)
        inner = around[margin : margin + height, :, margin : margin + width]
        # (e, H, B, n, h, f, T) back to (B, h, e, f, H, W).
        return (
            of_weights.permute(2, 4, 0, 5, 1, 3, 6).flatten(5)[..., :width],
            inner.flatten(3).transpose(0, 1),
        )


def _stretched(weights_BhefHW: Tensor) -> Tensor:
    """Weights by vertical offset and stretch: (e, H, B, n, h, f, T)."""
    width = weights_BhefHW.shape[5]
    stretches = -(-width // STRETCH)
    stretch = -(-width // stretches)
    even = F.pad(weights_BhefHW, (0, stretches * stretch - width))
    return even.unflatten(5, (stretches, stretch)).permute(2, 4, 0, 5, 1, 3, 6)


def _seen(values_BHWC: Tensor, weights_BhefHW: Tensor) -> Tensor:
    """The values that each stretch sees, with zeros around: (H + 2K - 2, B, n, h, P, D)."""
    heads, reach, _, _, width = weights_BhefHW.shape[1:]
    margin = reach // 2
    stretches = -(-width // STRETCH)
    stretch = -(-width // stretches)
    spare = stretches * stretch - width
    around = F.pad(values_BHWC, (0, 0, margin, margin + spare, margin, margin))
    # Windows of P cells, one after each T.
    seen = around.unflatten(3, (heads, -1)).unfold(2, stretch + 2 * margin, stretch)
    return seen.permute(1, 0, 2, 3, 5, 4).contiguous()


def _band(weights: Tensor, seen: int) -> tuple[Tensor, Tensor]:
    """Matrices (H B n h, P, T) of zeros, and a view (H, B, n, h, f, T) of their diagonals.

    Cell x of a stretch sees offset f at place x + f.
    """
    *grid, offsets, stretch = weights.shape[1:]
    band = weights.new_zeros(*grid, seen, stretch)
    strides = (*band.stride()[:-2], stretch, stretch + 1)
    return band.flatten(0, 3), band.as_strided((*grid, offsets, stretch), strides)


def _as_maps(found_HBnhTD: Tensor) -> Tensor:
    """(B, H, W, C), with the cells that fill the last stretch."""
    return found_HBnhTD.permute(1, 0, 2, 4, 3, 5).flatten(4).flatten(2, 3)
