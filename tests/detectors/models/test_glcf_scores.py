"""GLCF's scores: smoothing, statistics, fusion, and the search for its weights."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sklearn.covariance import LedoitWolf
from small_glcf import small_glcf, with_block
from toy_normals import ToyBatches, judged, toy_images

from detectors.metrics.separation import separation
from detectors.models.glcf.fusion import (
    best_weights,
    candidate_weights,
    gaussian_smoothed,
    map_covariances,
    scores_of,
    stated_weights,
)
from detectors.models.glcf.model import Seen


@pytest.mark.parametrize("sigma", [1.0, 2.3, 4.0])
def test_smoothing_equals_scipys(sigma):
    maps = np.random.default_rng(0).random((2, 6, 70, 70))
    expected = gaussian_filter(maps, (0, 0, sigma, sigma), mode="mirror")
    np.testing.assert_allclose(
        gaussian_smoothed(torch.from_numpy(maps), sigma).numpy(), expected, rtol=1e-9
    )


def test_statistics_are_means_over_images_of_their_own_mean_and_deviation():
    detector, train, held = small_glcf(), toy_images(7), toy_images(5, seed=1)
    with torch.no_grad():
        maps = detector._maps(train).double().numpy()
    detector.calibrate(ToyBatches(train), ToyBatches(held))
    np.testing.assert_allclose(detector.mean_K, maps.mean((2, 3)).mean(0), rtol=1e-5)
    np.testing.assert_allclose(detector.deviation_K, maps.std((2, 3)).mean(0), rtol=1e-5)
    other = small_glcf(statistics="validation")
    other.calibrate(ToyBatches(train), ToyBatches(held))
    again = small_glcf()
    again.calibrate(ToyBatches(held), ToyBatches(train))
    assert torch.equal(other.deviation_K, again.deviation_K)
    assert not torch.equal(other.deviation_K, detector.deviation_K)


@torch.no_grad()
def test_the_map_is_the_weighted_sum_and_the_score_its_deviation():
    detector, images = small_glcf(), with_block(3)
    detector.calibrate(ToyBatches(toy_images(6)), ToyBatches(toy_images(3)))
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
def test_a_constant_added_to_the_map_does_not_change_the_score():
    detector, images = small_glcf(), toy_images(3)
    detector.calibrate(ToyBatches(toy_images(6)), ToyBatches(toy_images(3)))
    before = detector(images)
    detector.mean_K += detector.deviation_K * torch.arange(6)
    after = detector(images)
    assert ((before.maps_BHW - after.maps_BHW).flatten(1).std(1) < 1e-4).all()
    assert (before.maps_BHW - after.maps_BHW).abs().mean() > 0.5
    torch.testing.assert_close(before.image_B, after.image_B, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_distance_compares_the_maps_scales_and_the_mean_local_token():
    detector, normals, images = small_glcf(score="distance"), toy_images(8), with_block(3)
    detector.calibrate(ToyBatches(normals), ToyBatches(toy_images(3)))

    def values(images):
        maps = detector._maps(images).double().numpy()
        scales = np.log(np.concatenate([maps.mean((2, 3)), maps.std((2, 3))], 1))
        patches = detector.embedding(detector._levels(images))
        return np.concatenate([scales, detector.aggregation(patches)[1].mean(1).double()], 1)

    spread = values(normals).std(0)
    gaussian = LedoitWolf().fit(values(normals) / spread)
    expected = gaussian.mahalanobis(values(images) / spread) ** 0.5
    np.testing.assert_allclose(detector(images).image_B, expected, rtol=1e-3)


@torch.no_grad()
def test_the_distance_finds_too_little_as_well_as_too_much():
    """The paper's score of an image with less error than any normal one is just low."""
    deviation, distance = (small_glcf(score=score) for score in ("deviation", "distance"))
    images = toy_images(12)
    for detector, less_is_anomalous in ((deviation, False), (distance, True)):
        detector.calibrate(ToyBatches(images), ToyBatches(toy_images(3)))
        scores = detector(images).image_B
        maps, content, residuals = detector._seen(images)
        for factor, anomalous in ((0.25, less_is_anomalous), (4, True)):
            scaled = Seen(factor * maps, content, residuals)
            detector._seen = lambda _, seen=scaled: seen
            changed = detector(images).image_B
            assert (changed.min() > scores.max()) == anomalous


@torch.no_grad()
def test_weights_pick_branches_and_scales():
    images = with_block(2)
    for changes, silent in (({"branch_weights": (1, 0)}, "global"),
                            ({"branch_weights": (0, 1)}, "local")):  # fmt: skip
        assert small_glcf(**changes).explain(images)[silent].abs().max() == 0
    coarse = small_glcf(scale_weights=(0, 0, 1), branch_weights=(1, 0))
    torch.testing.assert_close(coarse(images).maps_BHW, coarse._maps(images)[:, 2])


@torch.no_grad()
def test_the_global_branch_may_compare_the_levels_themselves():
    images = with_block(2)
    apart = small_glcf(global_map="correspondence")
    f, g, local, _ = apart._networks(apart._levels(images))
    swapped = small_glcf()
    # An estimate of F that is G.
    swapped._decoded = lambda *_: (f, f, local, g)
    torch.testing.assert_close(apart._maps(images), swapped._maps(images))


# --- the search for weights -----------------------------------------------------------------------


@torch.no_grad()
def test_scores_from_covariances_equal_the_scores():
    detector, images = small_glcf(), torch.cat([toy_images(3), with_block(3)])
    detector.calibrate(ToyBatches(toy_images(6)), ToyBatches(toy_images(3)))
    covariance_NKK = map_covariances(detector._normalised(detector._maps(images)))
    for weight_K in candidate_weights(2, 3)[::7]:
        detector.weight_K.copy_(torch.from_numpy(weight_K))
        expected = detector(images).image_B
        np.testing.assert_allclose(scores_of(weight_K, covariance_NKK), expected, rtol=1e-4)


def test_candidates_are_all_multiples_of_a_quarter():
    found = {tuple(weight_K.round(6)) for weight_K in candidate_weights(2, 3)}
    assert len(candidate_weights(2, 3)) == 5 * 15
    assert all(sum(weight_K) == pytest.approx(1) for weight_K in found)
    assert (0, 0.5, 0.5, 0, 0, 0) in found


def test_the_best_weights_are_found_and_ties_go_to_the_first():
    rng = np.random.default_rng(0)
    covariance_NKK, covariance_MKK = np.zeros((2, 20, 2, 2))
    for one, offset in ((covariance_NKK, 0), (covariance_MKK, 1)):
        one[:, 0, 0] = rng.random(20)
        one[:, 1, 1] = offset + rng.random(20)
    weights = [np.array([1.0, 0]), np.array([0, 1.0]), np.array([0, 2.0])]
    anomalous, control = np.ones(20, int), np.zeros(20, int)
    assert best_weights(weights, covariance_NKK, covariance_MKK, anomalous) is weights[1]
    # Without anomalies there is nothing to choose by.
    assert best_weights(weights, covariance_NKK, covariance_MKK, control) is weights[0]


@torch.no_grad()
def test_calibrated_weights_rank_the_synthetics_at_least_as_well_as_the_stated():
    normals = toy_images(10, seed=2)
    edited = torch.cat([toy_images(5, seed=3, dot=False), with_block(5)])
    # A missing dot is the anomaly; a bright block counts as a control.
    labels_M = torch.tensor([1] * 5 + [0] * 5)
    plain, tuned = small_glcf(), small_glcf(weights="calibrated")
    found = []
    for detector in (plain, tuned):
        judged(detector, toy_images(6), normals, edited, labels_M)
        normal_N, edited_M = (
            detector(images).image_B.double().numpy() for images in (normals, edited)
        )
        found.append(separation(normal_N, edited_M, labels_M.numpy()))
        np.testing.assert_allclose(
            detector.combined(detector.parts(normals)), normal_N, rtol=1e-3, atol=1e-6
        )
    np.testing.assert_allclose(plain.weight_K, stated_weights((5, 1), (1, 3, 6)), rtol=1e-6)
    assert not torch.equal(tuned.weight_K, plain.weight_K)
    assert found[1] > found[0]
    # Without samples the weights are those of the settings.
    judged(tuned, toy_images(6), normals)
    assert torch.equal(tuned.weight_K, plain.weight_K)
