"""GLCF's scores: smoothing, statistics, fusion, and the search for its weights."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from toy_normals import Toys, pictures

from detectors.metrics.image import image_metrics
from detectors.models.glcf.fusion import (
    candidates,
    chosen,
    covariances,
    scores_of,
    smoothed,
    stated,
)
from detectors.models.glcf.model import CleanTargetGlcf, Glcf
from detectors.models.glcf.settings import GlcfSettings
from detectors.networks.pyramids import TrunkPyramid
from pipeline.models.backbone import Trunk

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


@pytest.mark.parametrize("sigma", [1.0, 2.3, 4.0])
def test_smoothing_is_scipys(sigma):
    maps = np.random.default_rng(0).random((2, 6, 70, 70))
    expected = gaussian_filter(maps, (0, 0, sigma, sigma), mode="mirror")
    np.testing.assert_allclose(smoothed(torch.from_numpy(maps), sigma).numpy(), expected, rtol=1e-9)


def test_statistics_are_means_over_pictures_of_their_own_mean_and_deviation():
    detector, train, held = small(), pictures(7), pictures(5, seed=1)
    with torch.no_grad():
        maps = detector._maps(train).double().numpy()
    detector.calibrate(Toys(train), Toys(held))
    np.testing.assert_allclose(detector.mean_K, maps.mean((2, 3)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(detector.deviation_K, maps.std((2, 3)).mean(0), rtol=1e-5)
    other = small(statistics="validation")
    other.calibrate(Toys(train), Toys(held))
    again = small()
    again.calibrate(Toys(held), Toys(train))
    assert torch.equal(other.deviation_K, again.deviation_K)
    assert not torch.equal(other.deviation_K, detector.deviation_K)


@torch.no_grad()
def test_the_map_is_the_weighted_sum_and_the_score_its_deviation():
    detector, images = small(), odd(3)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    scores, parts = detector(images), detector.explain(images)
    assert list(parts) == ["local", "global"]
    torch.testing.assert_close(parts["local"] + parts["global"], scores.maps_BHW)
    maps = detector._maps(images).double().numpy()
    mean, deviation = (of.numpy()[:, None, None] for of in (detector.mean_K, detector.deviation_K))
    scaled = (maps - mean) / deviation
    weight_K = [5 / 6 * s / 10 for s in (1, 3, 6)] + [1 / 6 * s / 10 for s in (1, 3, 6)]
    fused = np.einsum("k,bkhw->bhw", weight_K, scaled)
    np.testing.assert_allclose(scores.maps_BHW, fused, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(scores.image_B, fused.std((1, 2)), rtol=1e-4)


@torch.no_grad()
def test_a_constant_added_to_the_map_leaves_the_score_alone():
    detector, images = small(), pictures(3)
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    before = detector(images)
    detector.mean_K += detector.deviation_K * torch.arange(6)
    after = detector(images)
    assert ((before.maps_BHW - after.maps_BHW).flatten(1).std(1) < 1e-4).all()
    assert (before.maps_BHW - after.maps_BHW).abs().mean() > 0.5
    torch.testing.assert_close(before.image_B, after.image_B, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_weights_pick_branches_and_scales():
    images = odd(2)
    for changes, silent in (({"branch_weights": (1, 0)}, "global"),
                            ({"branch_weights": (0, 1)}, "local")):  # fmt: skip
        assert small(**changes).explain(images)[silent].abs().max() == 0
    coarse = small(scale_weights=(0, 0, 1), branch_weights=(1, 0))
    torch.testing.assert_close(coarse(images).maps_BHW, coarse._maps(images)[:, 2])


@torch.no_grad()
def test_the_global_branch_may_compare_the_levels_themselves():
    images = odd(2)
    apart = small(global_map="correspondence")
    f, g, local, _ = apart._networks(images)
    swapped = small()
    swapped._networks = lambda _: (f, f, local, g)  # an estimate of F that is G
    torch.testing.assert_close(apart._maps(images), swapped._maps(images))


# --- the search for weights -----------------------------------------------------------------------


@torch.no_grad()
def test_scores_by_covariance_are_the_scores():
    detector, images = small(), torch.cat([pictures(3), odd(3)])
    detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    covariance_NKK = covariances(detector._normalised(images))
    for weight_K in candidates(2, 3)[::7]:
        detector.weight_K.copy_(torch.from_numpy(weight_K))
        expected = detector(images).image_B
        np.testing.assert_allclose(scores_of(weight_K, covariance_NKK), expected, rtol=1e-4)


def test_candidates_are_all_quarters():
    found = {tuple(weight_K.round(6)) for weight_K in candidates(2, 3)}
    assert len(candidates(2, 3)) == 5 * 15
    assert all(sum(weight_K) == pytest.approx(1) for weight_K in found)
    assert (0, 0.5, 0.5, 0, 0, 0) in found


def test_the_best_weights_are_found_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    labels_N = np.repeat([0, 1], 20)
    covariance_NKK = np.zeros((40, 2, 2))
    covariance_NKK[:, 0, 0] = rng.random(40)
    covariance_NKK[:, 1, 1] = labels_N + rng.random(40)
    weights = [np.array([1.0, 0]), np.array([0, 1.0]), np.array([0, 2.0])]
    assert chosen(weights, covariance_NKK, labels_N) is weights[1]


@torch.no_grad()
def test_calibrated_weights_rank_the_synthetics_at_least_as_well_as_the_stated():
    normals, edited = pictures(10, seed=2), torch.cat([pictures(5, seed=3, dot=False), odd(5)])
    label = torch.tensor([1] * 5 + [0] * 5)  # a missing dot counts, a bright block does not
    pairs = [{"edited": edited, "label": label}]
    labels = np.concatenate([np.zeros(10, int), label.numpy()])
    plain, tuned = small(), small(weights="calibrated")
    reached = []
    for detector in (plain, tuned):
        detector.calibrate(Toys(pictures(6)), Toys(pictures(3)))
        detector.tune(Toys(normals), pairs)
        scores = detector(torch.cat([normals, edited])).image_B.double().numpy()
        reached.append(image_metrics(labels, scores).image_auroc)
    np.testing.assert_allclose(plain.weight_K, stated((5, 1), (1, 3, 6)), rtol=1e-6)
    assert not torch.equal(tuned.weight_K, plain.weight_K)
    assert reached[1] > reached[0]
    best = tuned.weight_K.clone()
    tuned.tune(Toys(normals), [])  # nothing to tell apart: as it was
    assert torch.equal(tuned.weight_K, best)
    tuned.calibrate(Toys(pictures(6)), Toys(pictures(3)))
    assert torch.equal(tuned.weight_K, plain.weight_K)
