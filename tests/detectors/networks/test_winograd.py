"""Convolutions with fewer multiplications give the results and gradients of PyTorch's own."""

import pytest
import torch
import torch.nn.functional as F

from detectors.networks import winograd
from detectors.networks.pdn import Pdn

# Rounding errors as shares of the largest value; a wrong matrix gives errors of order 1.
NEAR = 2e-5


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real limits only decide about speed.
    monkeypatch.setattr(winograd, "LEAST_CHANNELS", 2)
    monkeypatch.setattr(winograd, "LEAST_CELLS", 1)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).detach().abs().max() / expected.detach().abs().max()) < NEAR


@pytest.mark.parametrize(
    ("taps", "height", "width", "padding", "dilation"),
    [
        (4, 13, 10, 0, 1),
        (3, 12, 17, 0, 1),
        (3, 9, 9, 1, 1),
        # LA-EAD's dilated convolutions.
        (3, 15, 12, 1, 2),
        (4, 12, 14, 3, 3),
        (1, 5, 6, 0, 1),
        # Fewer outputs than a tile has.
        (4, 5, 6, 0, 1),
    ],
)
def test_outputs_and_gradients_are_those_of_a_direct_convolution(
    taps: int, height: int, width: int, padding: int, dilation: int
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 6, height, width).contiguous(memory_format=torch.channels_last)
    inputs = [maps, torch.randn(5, 6, taps, taps), torch.randn(5)]
    ours = [value.clone().requires_grad_() for value in inputs]
    theirs = [value.double().requires_grad_() for value in inputs]
    found = winograd.conv2d(*ours, padding=padding, dilation=dilation)
    expected = F.conv2d(*theirs, padding=padding, dilation=dilation)
    assert_near(found, expected)
    upstream = torch.randn_like(found)
    found.backward(upstream)
    expected.backward(upstream.double())
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert_near(one.grad, other.grad)


def test_an_image_gets_the_same_features_alone_and_in_bands_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    maps, weight, bias = torch.randn(3, 8, 30, 30), torch.randn(8, 8, 4, 4), torch.randn(8)
    whole = winograd.conv2d(maps, weight, bias)
    # So small that every row of tiles is a band.
    monkeypatch.setattr(winograd, "BAND_BYTES", 1)
    assert_near(winograd.conv2d(maps[1:2], weight, bias), whole[1:2])


def test_a_student_learns_through_it() -> None:
    torch.manual_seed(0)
    student = Pdn("medium", outputs=8, width=1 / 32)
    student(torch.randn(1, 3, 64, 64)).square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in student.parameters())


def test_other_types_and_exporters_keep_the_direct_convolution() -> None:
    maps, weight, bias = torch.randn(1, 4, 9, 9), torch.randn(4, 4, 3, 3), torch.randn(4)
    expected = F.conv2d(maps.double(), weight.double(), bias.double())
    assert torch.equal(winograd.conv2d(maps.double(), weight.double(), bias.double()), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert winograd.conv2d(maps, weight, bias).dtype == torch.bfloat16
    program = torch.export.export(_Convolution(weight, bias), (maps,))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)


class _Convolution(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return winograd.conv2d(maps, self.weight, self.bias)
