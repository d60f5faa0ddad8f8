"""Few normals: the false-alarm rate on fresh normals lies in the interval that was promised."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_results import image_result, small_version

from detectors.registry import configure
from detectors.training.calibration import rate_interval
from detectors.training.checkpoint import load
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.records import ImageResult

FRESH = 150


def lit(number: int) -> ImageResult:
    """A ramp under a light of its own, with one anomaly and one control."""
    result = image_result(number, (64, 64), (("missing", ""), ("control_noop", "")))
    rng = np.random.default_rng([11, number])
    gain, offset_3 = rng.normal(1, 0.05), rng.normal(0, 5, 3)

    def under_light(pixels_HW3: np.ndarray) -> np.ndarray:
        return np.clip(pixels_HW3 * gain + offset_3, 0, 255).astype(np.uint8)

    attempts = []
    for attempt in result.attempts:
        assert attempt.sample is not None
        edited = replace(attempt.sample, pixels_HW3=under_light(attempt.sample.pixels_HW3))
        attempts.append(replace(attempt, sample=edited))
    pixels_HW3 = under_light(result.pixels_HW3)
    return replace(result, pixels_HW3=pixels_HW3, attempts=tuple(attempts))


@pytest.mark.parametrize(
    ("name", "count"), [("puad", 3), ("puad", 5), ("puad", 20), ("puad", 60), ("nearest", 20)]
)
def test_fresh_normals_are_alarms_as_often_as_promised(
    tmp_path: Path, name: str, count: int
) -> None:
    version = small_version(tmp_path, results=[lit(number) for number in range(count)], tests=0)
    recipe = configure(name, "cpu", {"teacher": "bundled-teacher", "size": 64})
    train(
        TrainJob(
            recipe=recipe, version=version.dir, out=tmp_path / "run", device="cpu",
            precision="fp32", board=False,
        )
    )  # fmt: skip
    restored = load(tmp_path / "run", "cpu", "fp32")
    calibration = restored.card.calibration
    # All of them were judged by a fit without them, not only the validation split.
    assert calibration.normals == count
    rate = calibration.rate_5
    assert rate == pytest.approx(max(1 / (count + 1), 0.05), abs=0.02)
    fresh = np.stack([lit(1000 + number).pixels_HW3 for number in range(FRESH)])
    with torch.inference_mode():
        scores = restored.detector(torch.from_numpy(fresh).permute(0, 3, 1, 2)).image_B.numpy()
    alarms = (scores >= calibration.threshold_5).mean()
    # The fits of the folds see fewer images, so the rate may be below the interval, never above.
    _, high = rate_interval(count, rate)
    assert alarms <= high
    # The threshold is no wall either: something can reach it.
    assert np.isfinite(calibration.threshold_5)
