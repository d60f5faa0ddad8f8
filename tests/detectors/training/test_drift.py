"""Normals that drift along their order: found where they do, and the user is told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_evaluations import tiny_known, trained
from small_results import image_result, small_version

from detectors.evaluation.evaluate import evaluate
from detectors.training.checkpoint import load
from detectors.training.drift import colours_of, drift_note, drift_of
from pipeline.dataset.version import Version

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


def features(count: int, drift: float, seed: int = 0) -> np.ndarray:
    """Six numbers of images that vary by 1, of which the first two drift by that much in all."""
    rng = np.random.default_rng(seed)
    features_NF = rng.normal(size=(count, 6))
    features_NF[:, :2] += drift * np.linspace(0, 1, count)[:, None]
    return features_NF


def brighter(folder: Path, step: float) -> Version:
    """24 images, each by `step` brighter than the one before, with one sample each."""
    results = []
    for number in range(24):

        def lit(pixels_HW3: np.ndarray, by: float = step * number) -> np.ndarray:
            return np.clip(pixels_HW3 + by, 0, 255).astype(np.uint8)

        result = image_result(number, (64, 64), (("missing", ""),))
        attempt = result.attempts[0]
        assert attempt.sample is not None
        edited = replace(attempt.sample, pixels_HW3=lit(attempt.sample.pixels_HW3))
        light, attempts = lit(result.pixels_HW3), (replace(attempt, sample=edited),)
        results.append(replace(result, pixels_HW3=light, attempts=attempts))
    return small_version(folder, results=results, tests=3, size=(64, 64))


def test_a_drift_of_two_standard_deviations_is_found_and_none_is_not() -> None:
    drift = drift_of(features(100, drift=2.0))
    assert drift.found
    assert 1 < drift.change < 3
    assert 0.2 < drift.share < 0.6
    assert sum(drift_of(features(100, drift=0.0, seed=seed)).found for seed in range(100)) <= 4


def test_a_drift_that_does_not_matter_is_not_reported_however_many_show_it() -> None:
    drift = drift_of(features(20_000, drift=0.2))
    assert drift.chance < 1e-6
    assert not drift.found


@pytest.mark.parametrize(
    "features_NF",
    [np.zeros((0, 6)), features(19, 50.0), np.full((40, 6), 7.0)],
    ids=["none", "few", "all alike"],
)
def test_too_few_and_equal_images_show_no_drift(features_NF: np.ndarray) -> None:
    assert not drift_of(features_NF).found


def test_grey_images_count_their_one_colour_once() -> None:
    grey_NF = features(60, 3.0)[:, [0, 0, 0, 3, 3, 3]]
    assert drift_of(grey_NF).found
    assert drift_of(grey_NF).chance == pytest.approx(drift_of(grey_NF[:, [0, 3]]).chance)


def test_the_features_are_mean_and_spread_of_the_stored_colours(tmp_path: Path) -> None:
    version = small_version(tmp_path, images=5)
    images = np.stack([image for image, _ in version.images()]).astype(float)
    expected = np.concatenate((images.mean((1, 2)), images.std((1, 2))), 1)
    np.testing.assert_allclose(colours_of(version), expected, rtol=1e-9)


def test_training_and_evaluation_say_that_normals_drift(tmp_path: Path) -> None:
    assert not drift_note(brighter(tmp_path / "steady", 0.0))
    version = brighter(tmp_path / "drifting", 1.0)
    with tiny_known():
        checkpoint = trained(version, tmp_path / "run")
        assert load(checkpoint, **CPU).card.calibration.notes["drift"] == drift_note(version)
        assert evaluate(checkpoint, version, **CPU).notes["drift"] == drift_note(version)
    assert "newest good images" in drift_note(version)
