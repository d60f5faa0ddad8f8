"""GLCF against a second implementation from the paper's equations, with the same weights."""

import glcf_reference as reference
import numpy as np
import pytest
import torch
from small_glcf import LEVELS, small_glcf, with_block
from toy_normals import ToyBatches, toy_images

from detectors.models.glcf.model import Glcf
from pipeline.models.backbone import normalise


def scrambled(**changes) -> Glcf:
    """A detector none of whose weights has a value, such as 0 or 1, that hides a slip."""
    # Two blocks per stack, so that one of them has shifted windows.
    detector = small_glcf(**{"depth": 2, "blocks": (2, 2), "encoder_heads": 4} | changes)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in detector.parameters():
            if value.requires_grad:
                value += 0.1 * torch.randn(value.shape, generator=generator)
    return detector


def by_reference(detector: Glcf, images: torch.Tensor):
    """F, G, L and P of the second implementation."""
    settings = detector.settings
    levels = detector.pyramid(normalise(images))
    heads = (settings.encoder_heads, settings.decoder_heads)
    found = reference.networks(levels, dict(detector.state_dict()), heads)
    return (list(levels[:3]), *found)


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 96])
def test_features_are_the_papers(size):
    detector, images = scrambled(size=size), toy_images(2, size)
    ours = detector._networks(detector._levels(images))
    for one, other in zip(ours, by_reference(detector, images), strict=True):
        for level, expected in zip(one, other, strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_losses_are_the_papers():
    detector, images = scrambled(loss_weights=(2, 3, 5)), with_block(3)
    f, g, local, estimate = by_reference(detector, images)
    pairs = {"correspondence": (2, f, g), "local": (3, f, local), "global": (5, g, estimate)}
    expected = {
        f"{name}_{level}": weight * value.mean()
        for name, (weight, one, other) in pairs.items()
        for level, value in zip(LEVELS, reference.distances(one, other), strict=True)
    }
    losses = detector.losses({"image": images}, 0, 10)
    assert list(losses) == list(expected)
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=0)


@torch.no_grad()
def test_maps_and_scores_are_the_papers():
    detector, train, images = scrambled(), toy_images(5), with_block(3)
    detector.calibrate(ToyBatches(train), ToyBatches(toy_images(3, seed=1)))

    def maps(images):
        f, g, local, estimate = by_reference(detector, images)
        both = reference.distances(f, local) + reference.distances(g, estimate)
        # Smoothing of 4 px at 224 px.
        return reference.smoothed_maps(both, 64, 4 * 64 / 224)

    # Mean and deviation of each image's map, averaged over the training normals.
    of_train = maps(train)
    mean_K = of_train.mean((2, 3)).mean(1)[:, None, None, None]
    deviation_K = of_train.std((2, 3)).mean(1)[:, None, None, None]
    scaled = (maps(images) - mean_K) / deviation_K
    local, whole = ((np.array([1, 3, 6])[:, None, None, None] / 10 * m).sum(0)
                    for m in (scaled[:3], scaled[3:]))  # fmt: skip
    fused = (5 * local + whole) / 6
    scores = detector(images)
    np.testing.assert_allclose(scores.maps_BHW, fused, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(scores.image_B, fused.std((1, 2)), rtol=1e-3)
