"""The probe of the audit against independent references, and the statistics that it sees."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.optimize import minimize

from pipeline.reports.audit.features import NAMES, Residuals, residuals, residuals_after, statistics
from pipeline.reports.audit.probe import CLIP, PENALTY, _scores, area, folds, probe


@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 4), st.integers(0, 2)),
        min_size=4,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_the_area_is_the_share_of_ordered_pairs_within_the_folds(rows):
    """Mann and Whitney's definition, counted pair by pair; ties count half."""
    labels, scores, groups, fold = (np.array(column) for column in zip(*rows, strict=True))
    found = area(scores.astype(float), labels, [str(g) for g in groups], fold)
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(len(rows))
        for j in range(len(rows))
        if labels[i] > labels[j] and fold[i] == fold[j]
    ]
    if not pairs:
        assert found.auroc is None
        return
    assert found.auroc == pytest.approx(np.mean(pairs))
    low, high = found.interval
    assert 0 <= low <= high <= 1


def test_scores_of_different_folds_are_never_compared():
    labels, groups = [1, 0, 1, 0], ["a", "b", "c", "d"]
    # The fit of the second fold gives scores that are higher by 100.
    scores = np.array([1.0, 0.0, 101.0, 100.0])
    assert area(scores, labels, groups, [0, 0, 1, 1]).auroc == 1.0
    assert area(scores, labels, groups, [0, 0, 0, 0]).auroc == 0.75


def test_the_interval_has_the_width_that_independent_samples_have():
    """Hanley and McNeil's standard error, an independent formula, for one sample per image."""
    rng = np.random.default_rng(0)
    count = 200
    scores = np.concatenate([rng.normal(1, 1, count), rng.normal(0, 1, count)])
    labels = [1] * count + [0] * count
    found = area(scores, labels, [str(i) for i in range(2 * count)], np.zeros(2 * count))
    a = found.auroc
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    error = ((a * (1 - a) + (count - 1) * (q1 + q2 - 2 * a * a)) / count**2) ** 0.5
    low, high = found.interval
    assert low < a < high
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("rows", "shift"), [(40, 0.0), (300, 1.0), (60, 50.0)])
def test_the_scores_are_those_of_the_regularised_balanced_fit(rows, shift):
    """The loss written out and minimised by SciPy; also with few examples and separable classes."""
    rng = np.random.default_rng(rows)
    labels = (rng.random(rows) < 0.25).astype(int)
    features = rng.normal(3, 2, (rows, 31))
    features[:, 3] += shift * labels
    features[:, 5] = 7.0
    unseen = rng.normal(3, 2, (20, 31))
    deviation = np.where(features.std(0) > 0, features.std(0), 1)
    train, test = (np.clip((x - features.mean(0)) / deviation, -CLIP, CLIP)
                   for x in (features, unseen))  # fmt: skip
    share = np.where(labels == 1, labels.mean(), 1 - labels.mean())

    def loss(theta):
        scores = train @ theta[:-1] + theta[-1]
        losses = np.logaddexp(0, scores) - labels * scores
        return theta[:-1] @ theta[:-1] / 2 + PENALTY * (losses / (2 * share)).sum()

    theta = minimize(loss, np.zeros(32), method="BFGS", options={"gtol": 1e-7}).x
    expected = test @ theta[:-1] + theta[-1]
    assert np.allclose(_scores(features, labels, unseen), expected, atol=1e-3)


@given(st.integers(4, 40), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_no_image_is_on_both_sides_of_a_fold(images, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, images, 4 * images)
    labels = rng.integers(0, 2, 4 * images)
    for train, test in folds(labels, groups, seed):
        assert not set(groups[train].tolist()) & set(groups[test].tolist())
        assert set(labels[train].tolist()) == set(labels[test].tolist()) == {0, 1}


def test_a_difference_is_found_and_memorising_images_does_not_help():
    rng = np.random.default_rng(1)
    groups = [str(i // 4) for i in range(160)]
    telling = np.array([i % 2 for i in range(160)])
    features = rng.normal(0, 1, (160, 6))
    features[:, 2] += 4 * telling
    assert probe(features, telling, groups).auroc > 0.95
    # Each image is unmistakable and its label arbitrary: only a leak between folds could help.
    known = rng.integers(0, 2, 40)
    own = np.array([known[i // 4] for i in range(160)])
    memory = np.eye(40).repeat(4, axis=0)
    low, high = probe(memory, own, groups).interval
    assert low <= 0.5 <= high


def test_the_probe_is_deterministic():
    rng = np.random.default_rng(2)
    features, labels = rng.normal(0, 1, (80, 5)), rng.integers(0, 2, 80)
    groups = [str(i // 2) for i in range(80)]
    assert probe(features, labels, groups) == probe(features, labels, groups)


def test_too_few_images_have_no_area_and_raise_nothing():
    found = probe(np.zeros((2, 3)), [0, 1], ["a", "a"])
    assert found.auroc is None
    assert found.interval is None


IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(9, 40), st.integers(9, 40), st.just(3)))


@given(IMAGES, st.data())
@settings(max_examples=60, deadline=None)
def test_statistics_are_finite_for_any_image_and_region(image, data):
    where = data.draw(arrays.arrays(np.bool_, image.shape[:2]))
    values = statistics(residuals(image), where)
    assert values.shape == (len(NAMES),)
    assert np.isfinite(values).all()


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_constant_images_tiny_and_full_masks_have_statistics(grey):
    image = np.full((40, 33, 3), grey, np.uint8)
    one, full = np.zeros((40, 33), np.bool_), np.ones((40, 33), np.bool_)
    one[39, 32] = True
    for where in (one, full, ~full):
        assert np.isfinite(statistics(residuals(image), where)).all()


def feature(image: np.ndarray, name: str) -> float:
    return statistics(residuals(image), np.ones(image.shape[:2], np.bool_))[NAMES.index(name)]


def test_statistics_measure_what_they_are_named_after():
    rng = np.random.default_rng(3)
    noise = np.clip(128 + rng.normal(0, 10, (128, 128, 3)), 0, 255).astype(np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.0)
    assert feature(noise, "level_r") > feature(smooth, "level_r") + 1
    assert feature(smooth, "fine_to_middle") < feature(noise, "fine_to_middle") - 0.3
    assert feature(smooth, "neighbour_01") > feature(noise, "neighbour_01") + 0.2
    scene = cv2.GaussianBlur(rng.integers(0, 256, (128, 128, 3), np.uint8), (0, 0), 4)
    scene = np.clip((scene.astype(float) - 128) * 4 + 128, 0, 255).astype(np.uint8)
    packed = cv2.imdecode(cv2.imencode(".jpg", scene, [cv2.IMWRITE_JPEG_QUALITY, 15])[1], 1)
    assert feature(packed, "grid_x") > feature(scene, "grid_x") + 0.3
    assert feature(packed, "grid_y") > feature(scene, "grid_y") + 0.3


def test_statistics_are_averages_so_a_larger_region_has_no_larger_value():
    rng = np.random.default_rng(4)
    found = residuals(np.clip(128 + rng.normal(0, 10, (128, 128, 3)), 0, 255).astype(np.uint8))
    small, large = np.zeros((2, 128, 128), np.bool_)
    small[32:64, 32:64], large[8:120, 8:120] = True, True
    assert np.abs(statistics(found, small) - statistics(found, large)).max() < 0.25


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_residuals_of_an_edited_image_are_patched_as_if_recomputed(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(16, 120, 2)
    source = rng.integers(0, 256, (height, width, 3), np.uint8)
    edited = source.copy()
    (y, x), (h, w) = rng.integers(0, [height, width]), rng.integers(0, 40, 2)
    edited[y : y + h, x : x + w] = rng.integers(0, 256, 3)
    patched, expected = residuals_after(residuals(source), source, edited), residuals(edited)
    for one, other in zip(arrays_of(patched), arrays_of(expected), strict=True):
        assert np.allclose(one, other, atol=1e-3)


def arrays_of(found: Residuals) -> list[np.ndarray]:
    return [found.high_3HW, *found.bands, found.laplacian_HW, *found.steps]
