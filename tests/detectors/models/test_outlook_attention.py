"""Outlook attention: summing windows first gives the result of the literal recipe."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from detectors.models.laead.outlook_attention import Msoa, OutlookAttention, banded

# Window sums are always float32, also for float64 inputs.
SINGLE = {"rtol": 1e-4, "atol": 1e-5}


def literal(attention: OutlookAttention, maps_BHWC: Tensor) -> Tensor:
    """Yuan et al.'s recipe, step by step: unfold the values, attend in each window, fold."""
    batch, height, width, channels = maps_BHWC.shape
    kernel, heads = attention.kernel, attention.heads
    values = attention.value(maps_BHWC).permute(0, 3, 1, 2)
    values = F.unfold(values, kernel, padding=kernel // 2)
    values = values.reshape(batch, heads, channels // heads, kernel**2, height * width)
    # (B, heads, cells, K², D)
    values = values.permute(0, 1, 4, 3, 2)
    logits = attention.attention(maps_BHWC)
    logits = logits.reshape(batch, height * width, heads, kernel**2, kernel**2).transpose(1, 2)
    weights = (logits * (channels // heads) ** -0.5).softmax(-1)
    found = (weights @ values).permute(0, 1, 4, 3, 2).reshape(batch, channels * kernel**2, -1)
    return F.fold(found, (height, width), kernel, padding=kernel // 2).permute(0, 2, 3, 1)


def made(channels: int, kernel: int, heads: int) -> OutlookAttention:
    torch.manual_seed(channels + kernel)
    attention = OutlookAttention(channels, kernel, heads).double()
    # Far from uniform attention.
    nn.init.normal_(attention.attention.weight, std=0.5)
    return attention


# --- against the literal recipe -------------------------------------------------------------------


@settings(deadline=None)
@given(
    kernel=st.sampled_from([3, 5]),
    heads=st.sampled_from([1, 2, 4]),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    batch=st.integers(1, 2),
)
def test_the_result_is_that_of_unfold_and_fold(
    kernel: int, heads: int, height: int, width: int, batch: int
) -> None:
    attention = made(8, kernel, heads)
    maps = torch.randn(batch, height, width, 8, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attention(maps), literal(attention, maps), **SINGLE)


def test_the_gradients_are_those_of_unfold_and_fold() -> None:
    attention = made(8, 5, 2)
    maps = torch.randn(1, 6, 7, 8, dtype=torch.float64, requires_grad=True)
    wanted = [maps, *attention.parameters()]
    upstream = torch.randn(1, 6, 7, 8, dtype=torch.float64)
    mine = torch.autograd.grad((attention(maps) * upstream).sum(), wanted)
    theirs = torch.autograd.grad((literal(attention, maps) * upstream).sum(), wanted)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, **SINGLE)


def test_in_float32_on_a_cpu_the_result_and_gradients_are_the_same() -> None:
    # Wider than a stretch of a row.
    attention, maps = made(8, 5, 2), torch.randn(2, 4, 35, 8, dtype=torch.float64)
    upstream = torch.randn_like(maps)
    found = []
    for dtype in (torch.float64, torch.float32):
        own = copy.deepcopy(attention).to(dtype)
        inputs = maps.to(dtype).requires_grad_()
        result = own(inputs)
        wanted = [inputs, *own.parameters()]
        found.append([result, *torch.autograd.grad((result * upstream.to(dtype)).sum(), wanted)])
    for expected, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=1e-3, atol=1e-4)


def test_banded_products_are_sums_over_offsets() -> None:
    torch.manual_seed(0)
    weights, values = torch.randn(1, 2, 5, 5, 4, 3).double(), torch.randn(1, 4, 3, 6).double()
    expected = torch.zeros(1, 4, 3, 6).double()
    for y in range(4):
        for x in range(3):
            for e in range(5):
                for f in range(5):
                    row, column = y + e - 2, x + f - 2
                    if 0 <= row < 4 and 0 <= column < 3:
                        for channel in range(6):
                            weight = weights[0, channel // 3, e, f, y, x]
                            expected[0, y, x, channel] += weight * values[0, row, column, channel]
    torch.testing.assert_close(banded(weights, values), expected)


def test_the_block_is_two_branches_each_projected_then_mixed() -> None:
    torch.manual_seed(0)
    block = Msoa(16, heads=2).double()
    maps = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    parts = [
        projection(literal(branch, maps.permute(0, 2, 3, 1)))
        for branch, projection in zip(block.branches, block.projections, strict=True)
    ]
    torch.testing.assert_close(
        block(maps), block.mixing(torch.cat(parts, 3)).permute(0, 3, 1, 2), **SINGLE
    )


# --- properties -----------------------------------------------------------------------------------


def test_uniform_attention_on_a_constant_gives_nine_times_the_constant_inside() -> None:
    attention = OutlookAttention(8, kernel=3, heads=2)
    nn.init.zeros_(attention.attention.weight)
    nn.init.zeros_(attention.attention.bias)
    attention.value.weight.data = torch.eye(8)
    found = attention(torch.full((1, 9, 9, 8), 2.5))
    torch.testing.assert_close(found[:, 2:-2, 2:-2], torch.full((1, 5, 5, 8), 9 * 2.5))


def test_the_paper_size_has_the_parameters_counted_from_its_table() -> None:
    assert sum(value.numel() for value in Msoa(512, heads=8).parameters()) == 4_471_824


def test_residual_norm_and_activation_are_switches() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 8, 5, 5)
    plain = Msoa(8, heads=2)
    state = plain.state_dict()
    for options, expected in (
        ({"residual": True}, maps + plain(maps)),
        ({"act": True}, plain(maps).relu()),
    ):
        block = Msoa(8, heads=2, **options)
        block.load_state_dict(state)
        torch.testing.assert_close(block(maps), expected)
    normed = Msoa(8, heads=2, prenorm=True)
    normed.load_state_dict(state, strict=False)
    torch.testing.assert_close(normed(maps), normed(5 * maps + 3), atol=1e-4, rtol=1e-4)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        OutlookAttention(10, kernel=3, heads=4)
