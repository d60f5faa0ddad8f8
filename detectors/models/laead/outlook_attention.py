"""Multi-scale outlook attention (MSOA), as in LA-EAD's context extractor.

Every cell predicts, from its own features, how the K x K cells around it attend to one another; the
attended windows are summed where they overlap (Yuan et al., "VOLO", TPAMI 2022). Two such branches,
K = 3 and 5, are concatenated and mixed by a linear layer (Li et al., Sensors 2025, 25, 5016).

A literal implementation with K = 5 copies every value 25 times and multiplies 25 x 25 matrices for
each cell and head. Here the windows' weights are summed first. A value contributes to a cell
through every window that contains both, so the attention between the two, summed over those
windows, is a single weight, and cell p receives

    y(p) = Σ_e w_p(e) · v(p + e),    e = -(K-1) … K-1 in both directions.

That is (2K-1)² products per value instead of K⁴. The weights of one row of cells are banded
matrices, which one batched matrix product applies. The result is the same up to rounding.

Maps must be at least three cells wide and high.

Shapes: B batch; C channels; D channels of a head; H, W cells; h heads; i, j the rows or columns of
a window (K); e, f vertical and horizontal offsets of two cells of a window (2K-1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detectors.models.laead.window_sums import Banded, WindowSums
from detectors.networks.winograd import in_eager_float32_on_cpu


class OutlookAttention(nn.Module):
    """One branch without its output projection, on maps (B, H, W, C)."""

    def __init__(self, channels: int, kernel: int, heads: int) -> None:
        super().__init__()
        if channels % heads or kernel % 2 == 0:
            raise ValueError(
                f"channels must be a multiple of heads and the kernel odd, got {channels} channels,"
                f" {heads} heads, kernel {kernel}"
            )
        self.kernel, self.heads = kernel, heads
        # The usual attention scale, one over the square root of the channels per head.
        self.scale = (channels // heads) ** -0.5
        # Values, and the K^4 attention weights per head that every cell predicts for its window.
        self.value = nn.Linear(channels, channels, bias=False)
        self.attention = nn.Linear(channels, heads * kernel**4)

    def forward(self, maps_BHWC: Tensor) -> Tensor:
        batch, height, width, _ = maps_BHWC.shape
        on_cpu = in_eager_float32_on_cpu(maps_BHWC)
        if on_cpu and batch > 1:
            # Image by image, as its attention alone fits into the cache.
            return torch.cat([self(image_1HWC) for image_1HWC in maps_BHWC.split(1)])
        maps_BCN = maps_BHWC.flatten(1, 2).transpose(1, 2)
        window = self.kernel**2
        # Head by head on a CPU, whose cache holds the attention of one head.
        parts = self.heads if on_cpu else 1
        found = []
        # The scale is folded into the weights, which are far fewer than the logits.
        for weight, bias in zip(
            (self.attention.weight * self.scale).chunk(parts),
            (self.attention.bias * self.scale).chunk(parts),
            strict=True,
        ):
            # Cells are the last dimension, so softmax and window sums read contiguous memory.
            logits = torch.baddbmm(bias[:, None], weight.expand(batch, -1, -1), maps_BCN)
            logits = logits.view(batch, self.heads // parts, window, window, height, width)
            attention = logits.softmax(3)
            if on_cpu:
                found.append(WindowSums.apply(attention, self.kernel))
            else:
                found.append(self.overlapped(attention))
        weights_BhefHW, values_BHWC = torch.cat(found, 1), self.value(maps_BHWC)
        if on_cpu:
            return Banded.apply(weights_BhefHW, values_BHWC)
        return banded(weights_BhefHW, values_BHWC)

    def overlapped(self, attention: Tensor) -> Tensor:
        """Sum attention (B, h, K², K², H, W) over windows: weights (B, h, 2K-1, 2K-1, H, W).

        Entry (ii, jj, y, x) is the attention from place jj to place ii of the window around (y, x).
        It counts for the cell at place ii and the offset jj - ii. Sums are in float32.
        """
        kernel, margin = self.kernel, self.kernel // 2
        split = attention.unflatten(3, (kernel, kernel)).unflatten(2, (kernel, kernel))
        # Rows first, then columns: 2 K shifted additions instead of K². A padding shifts each
        # summand to its cell and offset.
        single = attention.new_zeros((1,) * 7, dtype=torch.float32)
        rows, both = single, single[0]
        for i in range(kernel):
            offsets, cells = (kernel - 1 - i, i), (i - margin, margin - i)
            rows = rows + F.pad(split[:, :, i], (0, 0, *cells, 0, 0, *offsets))
        for i in range(kernel):
            offsets, cells = (kernel - 1 - i, i), (i - margin, margin - i)
            both = both + F.pad(rows[:, :, i], (*cells, 0, 0, *offsets))
        return both


def banded(weights_BhefHW: Tensor, values_BHWC: Tensor) -> Tensor:
    """Apply one weight per cell and offset: y(p) = Σ w_p(e, f) v(p + (e, f)), zeros outside.

    For one row of cells and one vertical offset, the weights form a banded W x L matrix with
    L = W + 2K - 2, plus a column of zeros. Each of its rows is shifted by one place against the row
    above. Writing the weights of every cell into a row of one length, and reading the memory as
    rows that are one place shorter, produces this shift without any indexing.
    """
    batch, heads, reach, _, height, width = weights_BhefHW.shape
    margin = reach // 2
    length = width + 2 * margin + 1
    weights_BhHWef = weights_BhefHW.permute(0, 1, 4, 5, 2, 3).to(values_BHWC.dtype)
    # Pad, flatten, drop the tail and regroup: the shift described above.
    bands = F.pad(weights_BhHWef, (0, length - reach)).flatten(3)
    bands = bands[..., :-width].unflatten(3, (width, reach * length - 1))
    # Zeros around the values, so that every offset exists at the border.
    around = F.pad(values_BHWC, (0, 0, margin, margin + 1, margin, margin))
    around_BhHWD = around.unflatten(3, (heads, -1)).permute(0, 3, 1, 2, 4)
    rows = torch.stack([around_BhHWD[:, :, e : e + height] for e in range(reach)], 3).flatten(3, 4)
    found = torch.bmm(bands.flatten(0, 2), rows[:, :, :, :-1].flatten(0, 2))
    return found.unflatten(0, (batch, heads, height)).permute(0, 2, 3, 1, 4).flatten(3)


class Msoa(nn.Module):
    """Outlook attention with windows of 3 and 5 cells, concatenated and mixed by a linear layer.

    Each branch has its own projection. Projection and mixing are both linear, so their matrices are
    multiplied first and applied to every cell at once. The published parameter counts determine
    concatenation and mixing; residual, layer norm and activation are options, off by default.
    """

    def __init__(
        self, channels: int, heads: int, residual: bool = False, prenorm: bool = False,
        act: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.residual, self.act = residual, act
        # Options that the paper does not mention.
        self.norm = nn.LayerNorm(channels) if prenorm else None
        self.branches = nn.ModuleList(OutlookAttention(channels, k, heads) for k in (3, 5))
        self.projections = nn.ModuleList(nn.Linear(channels, channels) for _ in (3, 5))
        self.mixing = nn.Linear(2 * channels, channels)

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        maps_BHWC = maps_BCHW.permute(0, 2, 3, 1)
        inputs_BHWC = maps_BHWC if self.norm is None else self.norm(maps_BHWC)
        # Fold the projections into the mixing: W (P x + b) + c = (W P) x + (W b + c).
        weights: list[Tensor] = []
        bias: Tensor = self.mixing.bias
        parts = self.mixing.weight.chunk(2, 1)
        for (weight, own_bias), part in zip(self._projections(), parts, strict=True):
            weights.append(part @ weight)
            bias = bias + part @ own_bias
        # The branches, side by side.
        attended = torch.cat([branch(inputs_BHWC) for branch in self.branches], 3)
        mixed_BHWC = F.linear(attended, torch.cat(weights, 1), bias)
        if self.act:
            mixed_BHWC = F.relu(mixed_BHWC)
        if self.residual:
            mixed_BHWC = maps_BHWC + mixed_BHWC
        return mixed_BHWC.permute(0, 3, 1, 2)

    def _projections(self) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of every branch's projection."""
        return [(linear.weight, linear.bias) for linear in self.projections]  # type: ignore[misc]
