"""GLCF: losses, gradients, settings, precision and export."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_glcf import LEVELS, SMALL, small_glcf, with_block
from toy_normals import ToyBatches, onnx_scores, overfit, toy_images

from detectors.models.glcf.model import build
from detectors.models.glcf.settings import GlcfSettings
from pipeline.models.backbone import normalise

TERMS = [f"{part}_{level}" for part in ("correspondence", "local", "global") for level in LEVELS]


def test_losses_are_mean_squares_between_the_levels():
    detector, images = small_glcf(), toy_images(3)
    with torch.no_grad():
        losses = detector.losses({"image": images}, 0, 10)
        # Rebuild the three reconstructions from the modules.
        f = detector.pyramid(normalise(images))
        z_global, z_local = (
            z.transpose(1, 2).reshape(3, 32, 2, 2)
            for z in detector.aggregation(detector.embedding(f))
        )
        g, local = detector.correspondence(z_global), detector.local(z_local)
        estimate = detector.estimate(z_local)
    assert list(losses) == TERMS
    parts = {"correspondence": (f[:3], g), "local": (f[:3], local), "global": (g, estimate)}
    for name, pair in parts.items():
        for level, one, other in zip(LEVELS, *pair, strict=True):
            expected = ((one - other) ** 2).numpy().mean()
            assert losses[f"{name}_{level}"].item() == pytest.approx(expected, rel=1e-5)


def test_it_overfits_eight_toy_images():
    detector = small_glcf(learning_rate=2e-3)
    losses = overfit(detector, toy_images(8), 200, until=0.4)
    assert losses[-1] < 0.5 * losses[0]
    for value in detector.pyramid.parameters():
        assert value.grad is None


def test_every_trained_part_gets_a_gradient_and_the_teacher_none():
    detector = small_glcf().train()
    sum(detector.losses({"image": toy_images(2)}, 0, 10).values()).backward()
    without = {name for name, value in detector.named_parameters() if value.grad is None}
    assert without == {f"pyramid.{name}" for name, _ in detector.pyramid.named_parameters()}
    # The optimiser holds exactly the parameters with a gradient.
    held = {id(v) for group in detector.optimizer(10)[0].param_groups for v in group["params"]}
    assert held == {id(v) for v in detector.parameters() if v.grad is not None}


def test_the_global_loss_reaches_the_local_tokens_and_their_decoder():
    """Both estimates read the local tokens; only the target comes from the global ones."""
    detector = small_glcf(detach_global_target=True).train()
    losses = detector.losses({"image": toy_images(2)}, 0, 10)
    sum(value for name, value in losses.items() if name.startswith("global")).backward()
    aggregation = detector.aggregation
    assert all(v.grad.abs().max() > 0 for v in aggregation.local_decoder.parameters())
    assert all(v.grad is None for v in aggregation.global_decoder.parameters())


@torch.no_grad()
def test_equal_decoders_do_not_make_the_global_map_zero():
    """G and its estimate come from different tokens, so equal weights give different levels."""
    detector = small_glcf()
    detector.estimate.load_state_dict(detector.correspondence.state_dict())
    maps_BKHW = detector._maps(with_block(2))
    assert (maps_BKHW[:, 3:].mean((2, 3)) > 1e-6).all()


@torch.no_grad()
def test_without_a_bottleneck_all_decoders_read_the_deepest_level():
    detector, images = small_glcf(bottleneck=False), toy_images(2)
    levels = detector._levels(images)
    _, g, local, estimate = detector._networks(levels)
    parts = ((detector.correspondence, g), (detector.local, local), (detector.estimate, estimate))
    for decoder, found in parts:
        for one, other in zip(found, decoder(levels[3]), strict=True):
            assert torch.equal(one, other)


def test_cached_levels_give_the_same_losses():
    images, batches = toy_images(6), ToyBatches(toy_images(6))
    for changes in ({}, {"standardise": True}):
        plain, cached = (small_glcf(cache_teacher_gib=gib, **changes) for gib in (0, 1))
        for detector in (plain, cached):
            detector.prepare(batches)
        assert cached.cache.table_NChw is not None
        assert plain.cache.table_NChw is None
        chosen = torch.tensor([4, 1, 3])
        batch = {"image": images[chosen], "index": chosen}
        with torch.no_grad():
            expected, found = (detector.losses(batch, 0, 10) for detector in (plain, cached))
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)
        # Images without a number, as in validation, are never looked up.
        with torch.no_grad():
            other = cached.losses({"image": with_block(3)}, 0, 10)
        assert other["local_coarse"] != found["local_coarse"]


def test_a_clean_target_caches_nothing():
    """Its images are edited ones, which have no number."""
    detector = small_glcf(clean_target=True)
    detector.prepare(ToyBatches(toy_images(4)))
    assert detector.cache.table_NChw is None


@pytest.mark.parametrize("detached", [True, False])
def test_a_detached_target_is_not_pulled_towards_its_estimate(detached):
    detector = small_glcf(detach_global_target=detached).train()
    losses = detector.losses({"image": toy_images(2)}, 0, 10)
    sum(value for name, value in losses.items() if name.startswith("global")).backward()
    # Gradients reach the correspondence decoder through its output as a target only.
    pulled = [v.grad is not None for v in detector.correspondence.parameters()]
    assert not any(pulled) if detached else all(pulled)
    assert all(value.grad is not None for value in detector.estimate.parameters())


def test_a_clean_target_changes_the_correspondence_loss_only():
    plain, detector = small_glcf(), small_glcf(clean_target=True)
    clean, edited = toy_images(3), with_block(3)
    batch = {"original": clean, "edited": edited}
    with torch.no_grad():
        losses = detector.losses(batch, 0, 10)
        as_edited = plain.losses({"image": edited}, 0, 10)
        # With an unedited original the loss is the plain one.
        same = detector.losses({"original": edited, "edited": edited}, 0, 10)
        target = detector.pyramid(normalise(clean))[:3]
        rebuilt = detector._networks(detector._levels(edited))[1]
    assert {n: v.item() for n, v in same.items()} == {n: v.item() for n, v in as_edited.items()}
    for level, one, other in zip(LEVELS, target, rebuilt, strict=True):
        name = f"correspondence_{level}"
        assert losses[name].item() == pytest.approx((one - other).square().mean().item(), rel=1e-5)
        assert losses[name] != as_edited[name]
        for other_name in (f"local_{level}", f"global_{level}"):
            assert losses[other_name] == as_edited[other_name]


def test_a_clean_target_reads_the_versions_samples():
    detector = build(GlcfSettings(**SMALL, clean_target=True, controls=False), None)
    assert detector.view == "sources"
    assert not any(kind.startswith("control") for kind in detector.settings.sources().wanted())
    assert build(GlcfSettings(**SMALL), None).view == "normals"


@pytest.mark.parametrize(
    "changes",
    [
        {"branch_weights": (0, 0)},
        {"scale_weights": (1, -1, 1)},
        {"encoder_heads": 5},
        {"embedded": ()},
    ],
)
def test_impossible_settings_are_rejected(changes):
    with pytest.raises(ValidationError):
        GlcfSettings(**SMALL | changes)


def test_standardised_levels_are_measured_before_training():
    detector = small_glcf(standardise=True)
    detector.prepare(ToyBatches(toy_images(6)))
    f0 = detector._levels(toy_images(6))[0]
    assert f0.mean((0, 2, 3)).abs().max() < 1e-3
    assert overfit(detector, toy_images(6), 3)
    assert all(value.grad is None for value in detector.pyramid.parameters())


@torch.no_grad()
def test_training_runs_in_bfloat16_and_scoring_in_float32():
    detector, images = small_glcf(), with_block(4)
    detector.calibrate(ToyBatches(toy_images(6)), ToyBatches(toy_images(3)))
    exact, losses = detector(images), detector.losses({"image": images}, 0, 10)
    with torch.autocast("cpu", torch.bfloat16):
        scores, reduced = detector(images), detector.losses({"image": images}, 0, 10)
    assert torch.equal(scores.image_B, exact.image_B)
    assert torch.equal(scores.maps_BHW, exact.maps_BHW)
    for name, value in reduced.items():
        assert value.dtype == torch.float32
        assert value != losses[name]
        assert value.item() == pytest.approx(losses[name].item(), rel=0.05)


@pytest.mark.parametrize(
    ("teacher", "score"),
    [
        ("bundled-teacher", "deviation"),
        ("bundled-teacher", "distance"),
        ("swin-tiny", "deviation"),
    ],
)
@pytest.mark.slow
def test_onnx_gives_the_same_scores_at_any_batch_size(teacher, score):
    torch.manual_seed(0)
    settings = GlcfSettings(**SMALL | {"teacher": teacher, "score": score})
    detector = build(settings, None).eval()
    images = with_block(3)
    with torch.no_grad():
        detector.calibrate(ToyBatches(toy_images(4)), ToyBatches(toy_images(2)))
        scores = detector(images)
    image_B, maps_BHW = onnx_scores(detector, images)
    np.testing.assert_allclose(image_B, scores.image_B, rtol=1e-3)
    np.testing.assert_allclose(maps_BHW, scores.maps_BHW, rtol=1e-2, atol=1e-2)
