"""PUAD and LA-EAD on a frozen backbone: the sum of two scores, and what synthetics choose."""

import numpy as np
import pytest
import torch
from toy_normals import ToyBatches, judged, onnx_scores, toy_images

from detectors.models.puad.frozen import FrozenPuad
from detectors.networks.fusion import fused
from detectors.registry import assemble, configure

TRAIN, HELD = toy_images(10), toy_images(8, seed=1)


def made(**changes: object) -> FrozenPuad:
    changes = {"size": 64, "teacher": "bundled-teacher", "bank": 500} | changes
    detector = assemble("laead", configure("laead", "cpu", changes).settings)
    assert isinstance(detector, FrozenPuad)
    detector.eval().prepare(ToyBatches(TRAIN))
    return detector


@pytest.fixture(scope="module")
def fitted() -> FrozenPuad:
    return judged(made(), TRAIN, HELD)


def without_dot(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples without their dot (label 1), and unchanged ones (label 0)."""
    whole, gone = toy_images(count, seed=3), toy_images(count, seed=4, dot=False)
    return torch.cat([whole, gone]), torch.arange(2 * count) // count


@pytest.mark.parametrize("rule", ["sum", "max"])
def test_the_score_is_made_of_both_standardised_scores(rule: str) -> None:
    """The patch distance by a naive search, the pooled one by its formula."""
    fitted = judged(made(fusion=rule), TRAIN, HELD)
    others = toy_images(3, seed=9)

    def two(images: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            middle, coarse = fitted.features(images)
            cells_BPC = fitted.memory.cells(middle, coarse).double().numpy()
        bank_NC = fitted.memory.bank_NC.double().numpy()
        worst = [
            np.linalg.norm(cells[:, None] - bank_NC[None], axis=2).min(1).max()
            for cells in cells_BPC
        ]
        gaussian = fitted.scores.distances.gaussians[0][0]
        gaps = middle.double().mean((2, 3)).numpy() - gaussian.mean_D.numpy()
        squares = np.einsum("bd,de,be->b", gaps, gaussian.precision_DD.numpy(), gaps)
        return np.stack([worst, np.sqrt(squares)], 1)

    assert int(fitted.scores.way) == 0
    held = two(HELD)
    scaled = (two(others) - held.mean(0)) / held.std(0)
    expected = scaled.sum(1) if rule == "sum" else scaled.max(1)
    with torch.no_grad():
        found = fitted(others)
    np.testing.assert_allclose(found.image_B, expected, rtol=2e-3, atol=2e-2)
    np.testing.assert_allclose(fitted.combined(fitted.parts(others)), found.image_B, rtol=1e-4)


def test_synthetics_choose_a_way_and_a_weight_and_the_missing_dot_is_found() -> None:
    samples, labels_M = without_dot(12)
    detector = judged(made(), TRAIN, HELD, samples, labels_M)
    with torch.no_grad():
        normal, edited = (detector(images).image_B for images in (toy_images(12, seed=7), samples))
    assert edited[labels_M == 1].min() > normal.max()


def test_without_a_difference_the_settings_stay() -> None:
    """All parts are the same number, so no way and no weight separates better than another."""
    detector = made(fusion="sum")
    rng = torch.Generator().manual_seed(0)
    parts = 1 + len(detector.scores.distances.ways)
    normals_NP = torch.randn(200, 1, generator=rng).double().expand(-1, parts)
    pairs_MP = torch.randn(200, 1, generator=rng).double().expand(-1, parts)
    labels_M = torch.ones(200, dtype=torch.int64)
    detector.fuse(normals_NP, pairs_MP, labels_M, labels_M)
    assert (int(detector.scores.way), float(detector.scores.weight)) == (0, 0.5)


def test_the_way_that_separates_is_chosen() -> None:
    detector = made(fusion="sum")
    rng = torch.Generator().manual_seed(0)
    parts = 1 + len(detector.scores.distances.ways)
    normals_NP = torch.randn(100, parts, generator=rng).double()
    pairs_MP = torch.randn(120, parts, generator=rng).double()
    labels_M = (torch.arange(120) < 80).long()
    # Part 4 finds the anomalies; part 2 finds them and the controls alike, by traces of editing.
    pairs_MP[labels_M == 1, 4] += 3
    pairs_MP[:, 2] += 6
    detector.fuse(normals_NP, pairs_MP, labels_M, labels_M)
    assert int(detector.scores.way) == 3
    assert float(detector.scores.weight) < 0.5


def test_of_equally_good_ways_that_takes_controls_for_normals() -> None:
    """Parts 1 and 4 find every anomaly, part 1 the controls as well."""
    detector = made()
    rng = torch.Generator().manual_seed(0)
    parts = 1 + len(detector.scores.distances.ways)
    normals_NP = torch.randn(100, parts, generator=rng).double()
    pairs_MP = torch.randn(120, parts, generator=rng).double()
    labels_M = (torch.arange(120) < 80).long()
    for part in (1, 4):
        pairs_MP[labels_M == 1, part] += 30
    detector.fuse(normals_NP, pairs_MP, labels_M, labels_M)
    assert int(detector.scores.way) == 0
    pairs_MP[labels_M == 0, 1] += 3
    detector.fuse(normals_NP, pairs_MP, labels_M, labels_M)
    assert int(detector.scores.way) == 3


def test_a_state_dict_is_the_whole_detector(fitted: FrozenPuad) -> None:
    other = assemble("laead", fitted.settings, weights=False).eval()
    other.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        assert torch.equal(other(toy_images(2)).image_B, fitted(toy_images(2)).image_B)


@pytest.mark.slow
def test_onnxruntime_gives_the_same_scores(fitted: FrozenPuad) -> None:
    images = toy_images(3, seed=9)
    score_B, maps_BHW = onnx_scores(fitted, images)
    with torch.no_grad():
        expected = fitted(images)
    np.testing.assert_allclose(score_B, expected.image_B, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(maps_BHW, expected.maps_BHW, rtol=1e-3, atol=1e-3)


def test_a_score_without_weight_does_not_count() -> None:
    scores_B2 = torch.tensor([[9.0, -2.0], [9.0, -0.5], [-9.0, 1.0]])
    assert fused(scores_B2, torch.tensor(0.0), "max").tolist() == [-2.0, -0.5, 1.0]
    assert fused(scores_B2, torch.tensor(0.5), "max").tolist() == [9.0, 9.0, 1.0]
    assert fused(scores_B2, torch.tensor(0.5), "sum").tolist() == [7.0, 8.5, -8.0]
