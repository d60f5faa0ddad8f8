"""The standardised trunk: statistics of the training normals, frozen, part of the state dict."""

import torch
from toy_normals import ToyBatches, toy_images

from detectors.networks.standardised_trunk import StandardisedTrunk
from pipeline.models.backbone import Trunk, normalise


def made() -> StandardisedTrunk:
    torch.manual_seed(0)
    return StandardisedTrunk(Trunk((8, 16, 32)))


def test_channels_of_the_normals_have_zero_mean_and_unit_variance():
    images, trunk = toy_images(7), made()
    trunk.measure(ToyBatches(images))
    raw = trunk.trunk(normalise(images))
    for level, before in zip(trunk(normalise(images)), raw, strict=True):
        alive = before.std((0, 2, 3)) > 1e-6
        assert alive.any()
        torch.testing.assert_close(
            level.mean((0, 2, 3)), torch.zeros(level.shape[1]), rtol=0, atol=1e-4
        )
        spread = level.std((0, 2, 3), correction=0)
        torch.testing.assert_close(spread, alive.float(), rtol=1e-3, atol=1e-4)
        assert (level < 0).any()


def test_it_is_frozen_and_restored_from_its_state_dict():
    images, trunk, other = toy_images(3), made(), made()
    trunk.measure(ToyBatches(images))
    assert not trunk.train().trunk.training
    assert not any(value.requires_grad for value in trunk.parameters())
    other.load_state_dict(trunk.state_dict())
    for one, two in zip(trunk(normalise(images)), other(normalise(images)), strict=True):
        assert torch.equal(one, two)
