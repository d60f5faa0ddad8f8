"""LA-EAD: extractor, reconstruction difference constraint, rows of the ablation."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from toy_normals import ToyBatches, judged, onnx_scores, overfit, toy_images

from detectors.models.efficientad.model import EfficientAd, jittered
from detectors.models.laead.model import (
    ContextExtractor,
    LaEad,
    LaEadSettings,
    build,
    difference_constraint,
)
from detectors.networks.pdn import Pdn
from detectors.registry import DETECTORS, assemble, configure
from pipeline.errors import UserError
from pipeline.models.backbone import normalise

TRAIN, VALIDATION = toy_images(8), toy_images(6, seed=1)


def small(**changes: object) -> LaEadSettings:
    return LaEadSettings(
        size=64, teacher="bundled-teacher", pdn="small", width=0.125, autoencoder_width=0.25,
        extractor_width=0.0625, heads=2, learning_rate=2e-3,
    ).model_copy(update=changes)  # fmt: skip


def made(**changes: object) -> LaEad:
    torch.manual_seed(0)
    detector = assemble("laead", small(**changes))
    assert isinstance(detector, LaEad)
    return detector


@pytest.fixture(scope="module")
def fitted() -> LaEad:
    detector = made()
    overfit(detector, TRAIN, steps=15)
    return judged(detector, TRAIN, VALIDATION)


# --- counts and shapes ----------------------------------------------------------------------------


def test_the_paper_size_has_the_parameters_of_the_papers_tables() -> None:
    detector = build(DETECTORS["laead"].paper[0], None)
    assert detector.extractor is not None
    assert sum(value.numel() for value in detector.extractor.parameters()) == 12_498_448
    assert sum(value.numel() for value in detector.parameters()) == 33_236_880
    plain = ContextExtractor(LaEadSettings(extractor="pdn"), 384)
    assert sum(value.numel() for value in plain.parameters()) == 8_026_624


@pytest.mark.parametrize("positions", [("A",), ("B",), ("C",), ("A", "B"), ("A", "B", "C")])
@pytest.mark.parametrize("dilate_conv5", [False, True])
def test_attention_is_where_the_settings_say_and_keeps_sizes(
    positions: tuple[str, ...], dilate_conv5: bool
) -> None:
    settings = small(
        positions=positions, dilate_conv5=dilate_conv5, extractor_width=0.03125, heads=2
    )
    extractor = ContextExtractor(settings, 8)
    assert tuple(extractor.attention) == positions
    # Hooks record the size of the maps that enter each attention block.
    sides = {}
    for name, block in extractor.attention.items():
        block.register_forward_hook(
            lambda _, inputs, __, name=name: sides.update({name: inputs[0].shape[-1]})
        )
    with torch.no_grad():
        assert extractor(torch.randn(1, 3, 256, 256)).shape == (1, 8, 56, 56)
    assert sides == {name: {"A": 61, "B": 61, "C": 59}[name] for name in positions}


def test_dilation_is_the_only_difference_to_the_plain_network() -> None:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 96, 96)
    plain = Pdn("medium", 8, width=0.0625)
    extractor = ContextExtractor(small(extractor="pdn", dilate_conv4=False), 8)
    extractor.load_state_dict(plain.state_dict())
    torch.testing.assert_close(extractor(images), plain(images))
    dilated = ContextExtractor(small(extractor="pdn"), 8)
    dilated.load_state_dict(plain.state_dict())
    assert dilated(images).shape == plain(images).shape
    assert not torch.allclose(dilated(images), plain(images))


def test_pooled_features_are_the_mean_of_the_map() -> None:
    torch.manual_seed(0)
    extractor = ContextExtractor(small(), 24)
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(extractor.pooled(images), extractor(images).mean((2, 3)))


# --- losses ---------------------------------------------------------------------------------------


def test_the_constraint_cannot_see_the_mirror_image() -> None:
    teacher, autoencoder = torch.randn(2, 2, 4, 5, 5)
    assert difference_constraint(teacher, autoencoder, autoencoder).item() == 0
    # S = 2T - A has the same distance from the teacher as A.
    mirrored = 2 * teacher - autoencoder
    assert difference_constraint(teacher, autoencoder, mirrored).item() == pytest.approx(
        0, abs=1e-9
    )
    assert difference_constraint(teacher, autoencoder, autoencoder + 1) > 0


def test_the_constraint_is_the_papers_sum_of_frobenius_norms() -> None:
    teacher, autoencoder, student = np.random.default_rng(0).normal(size=(3, 1, 4, 5, 6))
    expected = 0.0
    for channel in range(4):
        first = (teacher[0, channel] - autoencoder[0, channel]) ** 2
        second = (teacher[0, channel] - student[0, channel]) ** 2
        expected += np.linalg.norm(first - second, "fro") ** 2 / (4 * 5 * 6)
    found = difference_constraint(*map(torch.from_numpy, (teacher, autoencoder, student)))
    assert found.item() == pytest.approx(expected)


def test_the_losses_are_the_formulas_of_the_paper() -> None:
    detector = made(dropout=0.0).train()
    detector.prepare(ToyBatches(TRAIN))
    torch.manual_seed(5)
    terms = detector.losses({"image": TRAIN[:2], "index": torch.arange(2)}, 0, 10)
    assert set(terms) == {"student", "autoencoder", "student_autoencoder", "rdc", "extractor"}
    torch.manual_seed(5)
    other, clean = normalise(jittered(TRAIN[:2])), normalise(TRAIN[:2])
    assert detector.extractor is not None
    teacher, autoencoder = detector.teacher(other), detector.autoencoder(other)
    student = detector.student(other)[:, detector.teacher.channels :]
    # The constraint by hand, with alpha = 0.1.
    gap = (teacher - autoencoder) ** 2 - (teacher - student) ** 2
    torch.testing.assert_close(terms["rdc"], 0.1 * (gap**2).mean(), rtol=1e-4, atol=1e-5)
    missed = detector.extractor(clean) - detector.teacher(clean)
    torch.testing.assert_close(terms["extractor"], (missed**2).mean(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_the_constraint_can_train_the_student_alone(detach: bool) -> None:
    detector = made(rdc_detach_ae=detach).train()
    detector.prepare(ToyBatches(TRAIN))
    terms = detector.losses({"image": TRAIN[:2], "index": torch.arange(2)}, 0, 10)
    terms["rdc"].backward()
    moved = [value.grad is not None for value in detector.autoencoder.parameters()]
    assert set(moved) == {not detach}
    assert any(value.grad is not None for value in detector.student.parameters())


# --- ablation rows --------------------------------------------------------------------------------

ROWS = {
    "base": {"extractor": "none", "distance": "none", "rdc": False},
    "base + distance": {"extractor": "none", "distance": "student", "rdc": False},
    "base + extractor": {"distance": "extractor", "rdc": False},
    "rdc": {"extractor": "none", "distance": "none"},
    "rdc + distance": {"extractor": "none", "distance": "student"},
    "rdc + extractor without attention": {"extractor": "pdn"},
}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_ablation_trains_and_scores(row: str) -> None:
    detector = made(**ROWS[row])
    assert np.isfinite(overfit(detector, TRAIN[:3], steps=2)).all()
    judged(detector, TRAIN[:3], VALIDATION[:3])
    with torch.no_grad():
        scores = detector(VALIDATION)
        if ROWS[row].get("distance") == "none":
            torch.testing.assert_close(
                scores.image_B, EfficientAd.forward(detector, VALIDATION).image_B
            )
            inner = detector.fused_map(detector.raw_outputs(VALIDATION))
            torch.testing.assert_close(scores.image_B, detector.map_scores(inner))
    assert torch.isfinite(scores.image_B).all()


def test_a_distance_without_its_extractor_is_rejected() -> None:
    with pytest.raises(ValidationError, match="needs an extractor"):
        LaEadSettings(extractor="none")
    with pytest.raises(UserError, match="needs an extractor"):
        configure("laead", "tiny", {"extractor": "none"})


# --- training and scoring -------------------------------------------------------------------------


def test_it_overfits_eight_images() -> None:
    losses = overfit(made(), TRAIN, steps=200, until=0.5)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_distance_uses_the_extractors_features(fitted: LaEad) -> None:
    assert fitted.extractor is not None
    with torch.no_grad():
        raw = fitted.raw_outputs(VALIDATION)
        expected = fitted.extractor(normalise(VALIDATION)).mean((2, 3))
        torch.testing.assert_close(raw.pooled_BC, expected, rtol=1e-3, atol=1e-4)
        deviations = (fitted.parts(VALIDATION) - fitted.mean_2) / fitted.deviation_2
    torch.testing.assert_close(deviations.mean(0), torch.zeros(2), rtol=0, atol=1e-3)
    spread = deviations.std(0, correction=0)
    torch.testing.assert_close(spread, torch.ones(2), rtol=1e-3, atol=1e-3)


def test_the_extractor_shares_no_gradients_with_other_networks() -> None:
    """The paper trains all networks together; each would be the same if trained alone."""
    detector = made().train()
    detector.prepare(ToyBatches(TRAIN))
    assert detector.extractor is not None
    batch = {"image": TRAIN[:2], "index": torch.arange(2)}
    detector.losses(batch, 0, 10)["extractor"].backward()
    assert all(value.grad is None for value in detector.student.parameters())
    assert all(value.grad is not None for value in detector.extractor.parameters())


def test_a_state_dict_is_the_whole_detector(fitted: LaEad) -> None:
    other = assemble("laead", fitted.settings, weights=False).eval()
    other.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(other(TRAIN).image_B, fitted(TRAIN).image_B)


def test_onnxruntime_gives_the_same_scores(fitted: LaEad) -> None:
    images = toy_images(3, seed=9)
    score_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(score_B, expected.image_B, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-3)
