"""EfficientAD: size, the scale of its maps, training, files and export."""

import numpy as np
import pytest
import torch
from small_efficientad import small_efficientad
from toy_normals import ToyBatches, onnx_scores, overfit, toy_images

from detectors.models.efficientad.model import EfficientAd, build
from detectors.networks.pdn import cells_per_side
from detectors.networks.teachers import TEACHERS
from detectors.registry import DETECTORS, assemble, configure
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def fitted() -> EfficientAd:
    """Prepared, trained for a few steps, and calibrated on six other normals."""
    detector = small_efficientad()
    overfit(detector, toy_images(8), steps=15)
    detector.calibrate(ToyBatches(toy_images(8)), ToyBatches(toy_images(6, seed=1)))
    return detector


def test_the_paper_config_has_the_papers_parameter_count() -> None:
    settings = DETECTORS["efficientad"].paper[0]
    detector = build(settings, None)
    assert sum(value.numel() for value in detector.parameters()) == 20_738_432
    small_one = build(
        settings.model_copy(update={"pdn": "small", "teacher": "efficientad-s"}), None
    )
    assert sum(value.numel() for value in small_one.parameters()) == 8_057_856


# --- the scale of the maps ------------------------------------------------------------------------


def test_validation_normals_have_the_documented_quantiles(fitted: EfficientAd) -> None:
    with torch.no_grad():
        normals = ToyBatches(toy_images(6, seed=1))
        maps = [fitted.scaled_maps(fitted.raw_outputs(batch["image"])) for batch in normals]
    for place in range(2):
        cells_N = torch.cat([pair[place].flatten() for pair in maps]).numpy()
        low, high = np.quantile(cells_N, [0.9, 0.995])
        assert low == pytest.approx(0, abs=1e-5)
        assert high == pytest.approx(0.1, abs=1e-5)


def test_the_score_is_the_highest_pixel_of_the_map(fitted: EfficientAd) -> None:
    images = toy_images(3, seed=2)
    with torch.no_grad():
        score_B, maps_BHW = fitted(images)
        fused_Bhw = fitted.fused_map(fitted.raw_outputs(images))
    assert maps_BHW.shape == (3, 64, 64)
    torch.testing.assert_close(score_B, maps_BHW.amax((1, 2)))
    assert (score_B <= fused_Bhw.amax((1, 2))).all()


def test_a_peak_lies_at_the_centre_of_its_cells_receptive_field(fitted: EfficientAd) -> None:
    """The middle of cell (i, j) is pixel (4 i + 18, 4 j + 18)."""
    maps = torch.zeros(1, cells_per_side(64), cells_per_side(64))
    maps[0, 2, 5] = 1
    peak = int(fitted.at_image_size(maps)[0].argmax())
    row, column = divmod(peak, 64)
    assert abs(row - (4 * 2 + 17.5)) <= 2
    assert abs(column - (4 * 5 + 17.5)) <= 2


def test_a_constant_map_has_a_finite_scale() -> None:
    detector = small_efficientad()
    raw = detector.raw_outputs(toy_images(2))
    flat = torch.ones_like(raw.student_Bhw)
    detector._set_quantiles([raw._replace(student_Bhw=flat, autoencoder_Bhw=flat)])
    score_B, maps_BHW = detector(toy_images(2))
    assert torch.isfinite(score_B).all()
    assert torch.isfinite(maps_BHW).all()


def test_calibration_needs_validation_normals() -> None:
    with pytest.raises(UserError, match="validation normals"):
        small_efficientad().calibrate(ToyBatches(toy_images(2)), [])


def test_scores_have_no_dropout_in_any_mode_and_maps_average_their_parts(
    fitted: EfficientAd,
) -> None:
    images = toy_images(2, seed=3)
    with torch.no_grad():
        expected = fitted(images)
        parts = fitted.explain(images)
        fitted.train()
        for _ in range(2):
            assert torch.equal(fitted(images).maps_BHW, expected.maps_BHW)
        fitted.eval()
    assert set(parts) == {"student", "autoencoder"}
    mean_BHW = 0.5 * (parts["student"] + parts["autoencoder"])
    # Borders can differ, as each map has its own fill value.
    inner = slice(20, 44)
    torch.testing.assert_close(
        mean_BHW[:, inner, inner], expected.maps_BHW[:, inner, inner], rtol=1e-4, atol=1e-4
    )


# --- training -------------------------------------------------------------------------------------


def test_it_overfits_eight_images() -> None:
    losses = overfit(small_efficientad(), toy_images(8), steps=200, until=0.5)
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_bar_that_no_normal_image_has_scores_highest() -> None:
    detector = small_efficientad(hard_quantile=0.9)
    overfit(detector, toy_images(8), steps=60)
    detector.calibrate(ToyBatches(toy_images(8)), ToyBatches(toy_images(6, seed=1)))
    barred = toy_images(4, seed=7)
    barred[:, 0, 30:36, 20:44] = 250
    with torch.no_grad():
        assert detector(barred).image_B.min() > detector(toy_images(8, seed=5)).image_B.max()


def test_cached_features_change_no_loss() -> None:
    batch = {"image": toy_images(8)[2:5], "index": torch.tensor([2, 3, 4])}
    found = []
    for size in (2.0, 0.0, 1e-4):
        detector = small_efficientad(cache_teacher_gib=size).train()
        detector.prepare(ToyBatches(toy_images(8)))
        assert (detector.cache.table_NChw is not None) == (size == 2.0)
        torch.manual_seed(0)
        found.append(detector.losses(batch, 0, 10))
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, rtol=1e-4, atol=1e-6)
    assert not any("cache" in name for name in detector.state_dict())


def test_the_rate_falls_to_a_tenth_after_95_percent() -> None:
    optimizer, schedule = small_efficientad(learning_rate=1e-3).optimizer(100)
    rates = []
    for _ in range(100):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1e-3] * 95 + [1e-4] * 5)


def test_training_leaves_the_teacher_unchanged() -> None:
    detector = small_efficientad()
    before = {name: value.clone() for name, value in detector.teacher.trunk.state_dict().items()}
    overfit(detector, toy_images(4), steps=3)
    for name, value in detector.teacher.trunk.state_dict().items():
        assert torch.equal(value, before[name]), name


# --- settings and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("pdn", ["small", "medium"])
@pytest.mark.parametrize("teacher", TEACHERS)
def test_every_teacher_works_with_every_student(pdn: str, teacher: str) -> None:
    changes = {"pdn": pdn, "teacher": teacher, "size": "64", "width": "0.125"}
    recipe = configure("efficientad", "paper", changes)
    detector = assemble("efficientad", recipe.settings, weights=False).eval()
    with torch.no_grad():
        score_B, maps_BHW = detector(toy_images(1))
    assert (score_B.shape, maps_BHW.shape) == ((1,), (1, 64, 64))


def test_a_state_dict_is_the_whole_detector(fitted: EfficientAd) -> None:
    other = assemble("efficientad", fitted.settings, weights=False).eval()
    other.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(other(toy_images(2)).maps_BHW, fitted(toy_images(2)).maps_BHW)


# Slow: the ordinary suite exports LA-EAD, which contains EfficientAD.
@pytest.mark.slow
def test_onnxruntime_gives_the_same_scores(fitted: EfficientAd) -> None:
    images = toy_images(3, seed=9)
    score_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(score_B, expected.image_B, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-4)


def test_bfloat16_gives_nearly_the_same_scores(fitted: EfficientAd) -> None:
    images = torch.cat([toy_images(4, seed=9), toy_images(4, seed=10, dot=False)])
    with torch.no_grad():
        exact = fitted(images).image_B
        with torch.autocast("cpu", torch.bfloat16):
            reduced = fitted(images)
    assert reduced.image_B.dtype == reduced.maps_BHW.dtype == torch.float32
    torch.testing.assert_close(reduced.image_B, exact, rtol=0.1, atol=0.05)
