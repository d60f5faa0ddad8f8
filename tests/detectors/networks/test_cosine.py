"""Cosine distances against a loop over cells, gradients at zero, fusion, image scores."""

import numpy as np
import pytest
import torch

from detectors.networks.cosine import cosine_distance, fuse_levels, top_mean, unit_length


def test_the_distance_is_one_minus_the_cosine_of_each_cell():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 2, 5, 3, 4)).astype(np.float32) * 3
    found = cosine_distance(torch.from_numpy(one), torch.from_numpy(other))
    for b, y, x in np.ndindex(2, 3, 4):
        u, v = one[b, :, y, x].astype(float), other[b, :, y, x].astype(float)
        expected = 1 - u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
        assert found[b, y, x].item() == pytest.approx(expected, abs=1e-5)


def test_features_that_are_all_zero_have_finite_gradients():
    features = torch.zeros(1, 4, 2, 2, requires_grad=True)
    target = torch.rand(1, 4, 2, 2)
    loss = cosine_distance(features, target)
    assert torch.equal(loss, torch.ones_like(loss))
    loss.sum().backward()
    assert torch.isfinite(features.grad).all()
    # And not zero, so training can leave this point.
    assert features.grad.abs().sum() > 0


def test_half_precision_features_are_measured_in_float32():
    features = torch.full((1, 64, 1, 1), 1e-2, dtype=torch.bfloat16)
    assert unit_length(features).dtype == torch.float32
    assert cosine_distance(features, features).abs().item() < 1e-3


def test_levels_are_upsampled_and_combined():
    coarse, fine = torch.full((1, 2, 2), 0.5), torch.full((1, 4, 4), 0.25)
    expected = {"prod": 0.125, "sum": 0.75, "mean": 0.375}
    for fusion, value in expected.items():
        assert torch.allclose(fuse_levels([fine, coarse], 8, fusion), torch.full((1, 8, 8), value))


def test_levels_are_multiplied_on_the_finest_cells_before_they_are_upsampled():
    """As in DeSTSeg's public code; the product of upsampled maps is another one."""
    torch.manual_seed(0)
    fine, coarse = torch.rand(2, 8, 8), torch.rand(2, 2, 2)

    def resized(maps: torch.Tensor, side: int) -> torch.Tensor:
        return torch.nn.functional.interpolate(maps[:, None], (side, side), mode="bilinear")[:, 0]

    found = fuse_levels([fine, coarse], 32, "prod")
    torch.testing.assert_close(found, resized(fine * resized(coarse, 8), 32))
    assert (found - resized(fine, 32) * resized(coarse, 32)).abs().max() > 0.01


def test_the_score_is_the_mean_of_the_top_pixels_scaled_to_the_map():
    maps = torch.arange(256 * 256, dtype=torch.float32).reshape(1, 256, 256)
    assert top_mean(maps, 100, 256).item() == pytest.approx(np.arange(65436, 65536).mean())
    small = maps[:, :128, :128].contiguous()
    assert top_mean(small, 100, 128).item() == pytest.approx(
        small.flatten().topk(25).values.mean().item()
    )
    assert top_mean(maps[:, :2, :2], 100, 2).item() == maps[:, :2, :2].max()
