"""AUPRO and best F1 against anomalib, which defines them in the same way.

anomalib is not part of the project's environment: `make test-peers` installs it into another one.
"""

import json

import numpy as np
import pytest

from detectors.metrics.aupro import LIMITS
from detectors.metrics.image import image_metrics
from detectors.metrics.pixel_stream import PixelStream

pytestmark = pytest.mark.slow
HOW = "not installed here; `make test-peers` installs it"


@pytest.fixture(scope="module")
def peer():
    """anomalib's metric classes, which take plain tensors."""
    pytest.importorskip("anomalib", reason=HOW)
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.f1_score import _F1Max

    return _AUPRO, _F1Max


def their_aupro(kind, maps, masks, limit: float) -> float:
    import torch

    metric = kind(fpr_limit=limit)
    metric.update(torch.as_tensor(np.array(maps)), torch.as_tensor(np.array(masks, np.int64)))
    return float(metric.compute())


def their_f1(kind, labels, scores) -> float:
    import torch

    metric = kind()
    metric.update(torch.as_tensor(scores, dtype=torch.float32), torch.as_tensor(labels))
    return float(metric.compute())


def our_aupro(maps, masks) -> dict[float, float]:
    stream = PixelStream()
    for map_HW, mask_HW in zip(maps, masks, strict=True):
        type = "broken" if mask_HW.any() else "good"
        stream.add(map_HW, mask_HW[None], np.uint8([255]), type)
    return stream.result().pooled.aupro_at


def random_maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Twelve maps, eight with two defects of random contrast; odd seeds are coarse, with ties."""
    import cv2

    rng = np.random.default_rng(seed)
    maps, masks = (
        rng.normal(0, 1, (12, 96, 96)).astype(np.float32),
        np.zeros((12, 96, 96), np.uint8),
    )
    for number in range(8):
        for _ in range(2):
            x, y, radius = (int(value) for value in rng.integers((8, 8, 3), (88, 88, 12)))
            cv2.circle(masks[number], (x, y), radius, 1, -1)
        maps[number] += masks[number] * np.float32(rng.uniform(0.5, 3))
    maps = np.array([cv2.GaussianBlur(map_HW, (0, 0), 1.5) for map_HW in maps])
    return (np.round(maps * 8) / 8 if seed % 2 else maps), masks.astype(np.bool_)


def close(ours: float, theirs: float) -> bool:
    """Equal up to the rounding of anomalib's float32 running sums over all pixels."""
    print(f"ours {ours:.9f}  anomalib {theirs:.9f}  difference {ours - theirs:+.1e}")
    return ours == pytest.approx(theirs, abs=2e-6)


def test_aupro_on_the_official_inputs(peer, shared):
    cases = json.loads((shared / "design" / "metric_vectors.json").read_text())["pixel_level"]
    for case in cases:
        maps, masks = np.float32(case["maps"]), np.array(case["masks"], np.bool_)
        ours = our_aupro(maps, masks)
        for limit in LIMITS:
            assert close(ours[limit], their_aupro(peer[0], maps, masks, limit)), case["name"]


@pytest.mark.parametrize("seed", range(6))
def test_aupro_on_random_maps(peer, seed):
    maps, masks = random_maps(seed)
    ours = our_aupro(maps, masks)
    for limit in LIMITS:
        assert close(ours[limit], their_aupro(peer[0], maps, masks, limit))


def test_the_best_f1_on_the_official_inputs(peer, shared):
    cases = json.loads((shared / "design" / "metric_vectors.json").read_text())["image_level"]
    for case in cases:
        ours = image_metrics(case["labels"], case["scores"]).image_f1
        assert close(ours, their_f1(peer[1], case["labels"], case["scores"])), case["name"]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_f1_on_random_scores(peer, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    scores = np.float32(rng.normal(labels, 1))
    if seed % 2:
        scores = np.round(scores * 4) / 4
    assert close(image_metrics(labels, scores).image_f1, their_f1(peer[1], labels, scores))
