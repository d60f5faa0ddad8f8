"""GLCF: losses, gradients, settings, precision and export."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from toy_normals import Toys, onnx_scores, pictures, trained

from detectors.models.glcf.model import CleanTargetGlcf, Glcf, build
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.pyramids import TrunkPyramid
from pipeline.models.backbone import Trunk, normalise

SWIN = (96, 192, 384, 768)
SMALL = {
    "size": 64, "teacher": "bundled-teacher", "width": 16, "depth": 1, "encoder_heads": 2,
    "decoder_heads": 2, "blocks": (1, 1),
}  # fmt: skip
LEVELS = ("fine", "middle", "coarse")
TERMS = [f"{part}_{level}" for part in ("correspondence", "local", "global") for level in LEVELS]


def small(seed: int = 0, **changes) -> Glcf:
    torch.manual_seed(seed)
    settings = GlcfSettings(**SMALL | changes)
    pyramid = TrunkPyramid(Trunk((8, 16, 32))).freeze()
    return (CleanTargetGlcf if settings.clean_target else Glcf)(settings, pyramid).eval()


def millions(module: nn.Module) -> float:
    return round(sum(value.numel() for value in module.parameters()) / 1e6, 2)


def odd(count: int, seed: int = 0) -> Tensor:
    """Toy pictures with a bright block where none belongs."""
    images = pictures(count, seed=seed)
    images[:, :, 36:56, 8:28] = 250
    return images


def test_losses_are_mean_squares_between_the_levels():
    detector, images = small(), pictures(3)
    with torch.no_grad():
        losses = detector.losses({"image": images}, 0, 10)
        f = detector.pyramid(normalise(images))
        z_global, z_local = (
            z.transpose(1, 2).reshape(3, 32, 2, 2)
            for z in detector.aggregation(detector.embedding(f))
        )
        g, local = detector.correspondence(z_global), detector.local(z_local)
        estimate = detector.estimate(z_global)
    assert list(losses) == TERMS
    parts = {"correspondence": (f[:3], g), "local": (f[:3], local), "global": (g, estimate)}
    for name, pair in parts.items():
        for level, one, other in zip(LEVELS, *pair, strict=True):
            expected = ((one - other) ** 2).numpy().mean()
            assert losses[f"{name}_{level}"].item() == pytest.approx(expected, rel=1e-5)


def test_it_overfits_eight_toy_pictures():
    detector = small(learning_rate=2e-3)
    losses = trained(detector, pictures(8), 200, until=0.4)
    assert losses[-1] < 0.5 * losses[0]
    for value in detector.pyramid.parameters():
        assert value.grad is None


def test_every_trained_part_gets_a_gradient_and_the_teacher_none():
    detector = small().train()
    sum(detector.losses({"image": pictures(2)}, 0, 10).values()).backward()
    without = {name for name, value in detector.named_parameters() if value.grad is None}
    assert without == {f"pyramid.{name}" for name, _ in detector.pyramid.named_parameters()}
    held = {id(v) for group in detector.optimizer(10)[0].param_groups for v in group["params"]}
    assert held == {id(v) for v in detector.parameters() if v.grad is not None}


@pytest.mark.parametrize("detached", [True, False])
def test_a_detached_target_is_not_pulled_towards_its_estimate(detached):
    detector = small(detach_global_target=detached).train()
    losses = detector.losses({"image": pictures(2)}, 0, 10)
    sum(value for name, value in losses.items() if name.startswith("global")).backward()
    pulled = [v.grad is not None for v in detector.correspondence.parameters()]
    assert not any(pulled) if detached else all(pulled)
    assert all(value.grad is not None for value in detector.estimate.parameters())


def test_a_clean_target_is_for_the_global_meaning_only():
    plain, detector = small(), small(clean_target=True)
    clean, edited = pictures(3), odd(3)
    batch = {"original": clean, "edited": edited}
    with torch.no_grad():
        losses = detector.losses(batch, 0, 10)
        as_edited = plain.losses({"image": edited}, 0, 10)
        same = detector.losses({"original": edited, "edited": edited}, 0, 10)
        target = detector.pyramid(normalise(clean))[:3]
        made = detector._networks(edited)[1]
    assert {n: v.item() for n, v in same.items()} == {n: v.item() for n, v in as_edited.items()}
    for level, one, other in zip(LEVELS, target, made, strict=True):
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
def test_what_cannot_be_is_refused(changes):
    with pytest.raises(ValidationError):
        GlcfSettings(**SMALL | changes)


def test_standardised_levels_are_measured_before_training():
    detector = small(standardise=True)
    detector.prepare(Toys(pictures(6)))
    f0 = detector._levels(pictures(6))[0]
    assert f0.mean((0, 2, 3)).abs().max() < 1e-3
    assert trained(detector, pictures(6), 3)
    assert all(value.grad is None for value in detector.pyramid.parameters())


@torch.no_grad()
def test_training_takes_bfloat16_and_scoring_does_not():
    detector, images = small(), odd(4)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    exact, losses = detector(images), detector.losses({"image": images}, 0, 10)
    with torch.autocast("cpu", torch.bfloat16):
        scores, rough = detector(images), detector.losses({"image": images}, 0, 10)
    assert torch.equal(scores.image_B, exact.image_B)
    assert torch.equal(scores.maps_BHW, exact.maps_BHW)
    for name, value in rough.items():
        assert value.dtype == torch.float32
        assert value != losses[name]
        assert value.item() == pytest.approx(losses[name].item(), rel=0.05)


@pytest.mark.parametrize(
    "teacher", ["bundled-teacher", pytest.param("swin-tiny", marks=pytest.mark.slow)]
)
def test_onnx_gives_the_same_scores_at_any_batch_size(teacher):
    torch.manual_seed(0)
    detector = build(GlcfSettings(**SMALL | {"teacher": teacher}), None).eval()
    images = odd(3)
    with torch.no_grad():
        detector.calibrate(Toys(pictures(4)), Toys(pictures(2)))
        scores = detector(images)
    image_B, maps_BHW = onnx_scores(detector, images)
    np.testing.assert_allclose(image_B, scores.image_B, rtol=1e-3)
    np.testing.assert_allclose(maps_BHW, scores.maps_BHW, rtol=1e-2, atol=1e-2)
