"""PUAD: two scores, standardised on the validation normals and added as in the paper."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from toy_normals import ToyBatches, judged, onnx_scores, overfit, toy_images

from detectors.models.efficientad.settings import EfficientAdSettings
from detectors.models.puad.model import Puad
from detectors.models.puad.settings import PuadSettings
from detectors.registry import assemble
from pipeline.models.backbone import normalise

TRAIN, VALIDATION = toy_images(8), toy_images(6, seed=1)


def made(**changes: object) -> Puad:
    torch.manual_seed(0)
    settings = PuadSettings(
        size=64, teacher="bundled-teacher", pdn="small", width=0.125, autoencoder_width=0.25,
        learning_rate=2e-3,
    ).model_copy(update=changes)  # fmt: skip
    detector = assemble("puad", settings)
    assert isinstance(detector, Puad)
    return detector


@pytest.fixture(scope="module")
def fitted() -> Puad:
    detector = made()
    overfit(detector, TRAIN, steps=15)
    return judged(detector, TRAIN, VALIDATION)


def without_dots(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples whose dot is missing (label 1), and others where nothing has changed (label 0)."""
    whole, gone = toy_images(count, seed=3), toy_images(count, seed=4, dot=False)
    return torch.cat([whole, gone]), torch.arange(2 * count) // count


# --- against independent references ---------------------------------------------------------------


def test_the_score_is_the_published_formula(fitted: Puad) -> None:
    """Every step with NumPy and scikit-learn, from the networks' raw outputs."""
    channels = fitted.teacher.channels

    def features(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            student = fitted.student(normalise(images))[:, :channels]
        return student.double().mean((2, 3)).numpy()

    def map_score(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            inner = fitted.fused_map(fitted.raw_outputs(images))
            return fitted.map_scores(inner).double().numpy()

    gaussian = LedoitWolf().fit(features(TRAIN))

    def distance(images: torch.Tensor) -> np.ndarray:
        return np.sqrt(gaussian.mahalanobis(features(images)))

    others = toy_images(4, seed=9)
    expected = np.zeros(4)
    for score in (map_score, distance):
        expected += (score(others) - score(VALIDATION).mean()) / score(VALIDATION).std()
    with torch.no_grad():
        found = fitted(others).image_B
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_validation_normals_have_mean_zero_and_deviation_one(fitted: Puad) -> None:
    with torch.no_grad():
        deviations_N2 = (fitted.parts(VALIDATION) - fitted.mean_2) / fitted.deviation_2
    torch.testing.assert_close(deviations_N2.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
    deviation_2 = deviations_N2.std(0, correction=0)
    torch.testing.assert_close(deviation_2, torch.ones(2), rtol=1e-4, atol=1e-4)


# --- properties -----------------------------------------------------------------------------------


def test_the_map_is_that_of_efficientad(fitted: Puad) -> None:
    images = toy_images(2, seed=5)
    state = {
        name: value for name, value in fitted.state_dict().items()
        if not name.startswith(("gaussian", "mean_2", "deviation_2", "weight"))
    }  # fmt: skip
    shared = fitted.settings.model_dump(
        exclude=set(PuadSettings.model_fields) - set(EfficientAdSettings.model_fields)
    )
    plain = assemble("efficientad", EfficientAdSettings(**shared)).eval()
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(plain(images).maps_BHW, fitted(images).maps_BHW)


def test_extreme_weights_leave_one_score(fitted: Puad) -> None:
    images = toy_images(3, seed=5)
    with torch.no_grad():
        raw = fitted.raw_outputs(images)
        fused = fitted.fused_map(raw)
        deviations_B2 = (fitted.two_scores(raw, fused) - fitted.mean_2) / fitted.deviation_2
        for weight, expected in ((1.0, deviations_B2[:, 0]), (0.0, deviations_B2[:, 1])):
            fitted.weight.fill_(weight)
            torch.testing.assert_close(fitted.image_scores(raw, fused), 2 * expected)
        fitted.weight.fill_(0.5)


def test_tuning_finds_the_best_weight_of_the_grid_and_is_off_by_default(fitted: Puad) -> None:
    samples, labels_M = without_dots(6)
    judged(fitted, TRAIN, VALIDATION, samples, labels_M)
    assert fitted.weight.item() == 0.5
    tuned = made(tune_fusion=True).eval()
    tuned.load_state_dict(fitted.state_dict())
    judged(tuned, TRAIN, VALIDATION, samples, labels_M)
    reached = {}
    with torch.no_grad():
        for step in range(21):
            fitted.weight.fill_(step / 20)
            normals, edited = fitted(VALIDATION).image_B, fitted(samples).image_B
            # Anomalies against normals, and against edits that change nothing.
            aurocs = [
                roc_auc_score([0] * len(one) + [1] * 6, torch.cat([one, edited[labels_M == 1]]))
                for one in (normals, edited[labels_M == 0])
            ]
            reached[step] = np.mean(aurocs)
        fitted.weight.fill_(0.5)
    best = round(20 * tuned.weight.item())
    assert reached[best] == pytest.approx(max(reached.values()))
    equally_good = [step for step, value in reached.items() if value > reached[best] - 1e-9]
    assert abs(best - 10) == min(abs(step - 10) for step in equally_good)
    # Without anomalies it is the weight of the settings.
    assert judged(tuned, TRAIN, VALIDATION).weight.item() == 0.5


def test_equal_scores_of_all_normals_cause_no_division_by_zero() -> None:
    detector = made().eval()
    one = toy_images(1)
    detector.prepare(ToyBatches(one))
    judged(detector, one, one)
    with torch.no_grad():
        assert torch.isfinite(detector(toy_images(2)).image_B).all()


def test_a_state_dict_is_the_whole_detector(fitted: Puad) -> None:
    other = assemble("puad", fitted.settings, weights=False).eval()
    other.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(other(toy_images(2)).image_B, fitted(toy_images(2)).image_B)


# Slow: the ordinary suite exports LA-EAD, which contains PUAD.
@pytest.mark.slow
def test_onnxruntime_gives_the_same_scores(fitted: Puad) -> None:
    images = toy_images(3, seed=9)
    score_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(score_B, expected.image_B, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-3)
