"""Image-level metrics against scikit-learn, a loop over thresholds, and worked examples."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from detectors.metrics.bootstrap import Interval, resample_counts, resampled
from detectors.metrics.image import METRICS, at_least, image_metrics
from detectors.metrics.per_type import group_metrics
from pipeline.errors import UserError

EXPECTED = {
    "image_auroc": "auroc",
    "image_ap": "average_precision_step",
    "image_f1": "f1_max",
    "image_f1_threshold": "f1_max_threshold",
    "precision_at_recall_90": "precision_at_recall_0_90",
}


@pytest.fixture(scope="session")
def vectors(shared: Path) -> dict:
    """Inputs with the values that the official programs give for them."""
    return json.loads((shared / "design" / "metric_vectors.json").read_text())


@st.composite
def scored(draw, most: int = 30):
    """Labels with both classes and scores on a coarse grid, so that ties are common."""
    labels = [0, 1, *draw(st.lists(st.integers(0, 1), max_size=most))]
    scores = draw(st.lists(st.integers(-4, 4), min_size=len(labels), max_size=len(labels)))
    return np.array(labels), np.array(scores, np.float32) / 4


def by_loop(labels, scores) -> dict[str, float]:
    """The definitions, one threshold at a time, lowest first."""
    points = []
    for threshold in sorted(set(scores.tolist())):
        positive = scores >= threshold
        hits, false = int((positive & (labels == 1)).sum()), int((positive & (labels == 0)).sum())
        precision, recall = hits / (hits + false), hits / labels.sum()
        f1 = 2 * hits / (positive.sum() + labels.sum())
        points.append((threshold, precision, recall, hits, f1))
    best = max(point[4] for point in points)
    return {
        "image_f1": best,
        "image_f1_threshold": next(point[0] for point in points if point[4] == best),
        # hits / positives >= 9 / 10, in whole numbers.
        "precision_at_recall_90": max(p[1] for p in points if 10 * p[3] >= 9 * labels.sum()),
    }


def test_the_official_values(vectors):
    for case in vectors["image_level"]:
        found = image_metrics(case["labels"], case["scores"])
        for name, theirs in EXPECTED.items():
            wanted = case["expected"][theirs]
            assert getattr(found, name) == pytest.approx(wanted, abs=1e-6), (case["name"], name)


def test_scores_above_one_are_not_squashed(vectors):
    for case in vectors["torchmetrics_traps"]:
        scores = case["scores"] if "scores" in case else np.ravel(case["batches"])
        found = image_metrics(np.ravel(case["labels"]), scores)
        assert found.image_auroc == pytest.approx(case["true_auroc"])


def test_the_lowest_possible_average_precision(vectors):
    for counts in vectors["min_possible_image_ap"].values():
        anomalous = counts["logical"] + counts["structural"]
        labels = [1] * anomalous + [0] * counts["good"]
        found = image_metrics(labels, np.arange(len(labels)))
        assert found.image_ap == pytest.approx(counts["all"])
        assert found.image_auroc == 0


@settings(deadline=None, max_examples=100)
@given(scored())
def test_every_metric_equals_scikit_learn_and_a_loop(case):
    labels, scores = case
    found = image_metrics(labels, scores)
    assert found.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert found.image_ap == pytest.approx(average_precision_score(labels, scores))
    for name, value in by_loop(labels, scores).items():
        assert getattr(found, name) == pytest.approx(value), name


@settings(deadline=None, max_examples=100)
@given(scored())
def test_the_curves_have_every_threshold_once(case):
    labels, scores = case
    found = image_metrics(labels, scores)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(found.roc_P2, np.stack([fpr, tpr], 1))
    recall_T, precision_T = found.pr_P2.T
    assert len(recall_T) == len(np.unique(scores))
    gained = np.diff(recall_T, prepend=0)
    assert (gained * precision_T).sum() == pytest.approx(found.image_ap)


@settings(deadline=None, max_examples=100)
@given(scored(), st.permutations(range(12)))
def test_only_the_ranking_matters(case, order):
    labels, scores = case
    found = image_metrics(labels, scores).values()
    assert image_metrics(labels, scores**3 + scores - 100).values() == pytest.approx(found)
    assert image_metrics(labels, scores.astype(np.float64)).values() == found
    order = [*[n for n in order if n < len(labels)], *range(12, len(labels))]
    assert image_metrics(labels[order], scores[order]).values() == found
    assert image_metrics(np.tile(labels, 2), np.tile(scores, 2)).values() == pytest.approx(found)


@settings(deadline=None, max_examples=100)
@given(scored(), st.integers(-5, 5))
def test_one_more_good_image_changes_no_recall(case, score):
    labels, scores = case
    before = image_metrics(labels, scores)
    after = image_metrics(np.append(labels, 0), np.append(scores, score / 4))
    assert set(after.pr_P2[:, 0]) - {0} == set(before.pr_P2[:, 0]) - {0}


def test_recall_is_counted_and_not_divided():
    """Nine of ten is 0.9, although 9 / 10 and 1 - 0.1 are not the same number everywhere."""
    labels = [1] * 10 + [0]
    scores = [9, 9, 9, 9, 9, 9, 9, 9, 9, 1, 5]
    assert image_metrics(labels, scores).precision_at_recall_90 == 1
    assert [at_least(share, 10) for share in (0.9, 0.91, 0)] == [9, 10, 1]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([0, 0], "no anomalous"), ([1, 1], "no good"), ([], "no image")],
)
def test_one_class_has_no_metrics_and_a_reason(labels, reason):
    found = image_metrics(labels, np.zeros(len(labels)))
    assert set(found.values().values()) == {None}
    assert found.image_f1_threshold is None
    assert reason in found.reason
    assert set(intervals(labels, np.zeros(len(labels))).values()) == {None}


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([0, 1, 1], [0.5, np.nan, np.nan], r"scores_N\[1\] is nan, expected finite"),
        ([0, 1], [0.5, np.inf], r"scores_N\[1\] is inf"),
        ([0, 2], [0.5, 0.7], r"labels_N\[1\] is .*2.*, expected 0"),
        ([0, 1, 1], [0.5, 0.7], r"labels_N must be \(2,\)"),
        ([0, 1], [[0.5, 0.7]], r"scores_N must be \(N,\) numbers, got \(1, 2\)"),
        ([0, 1], ["a", "b"], "scores_N must be"),
    ],
)
def test_input_that_cannot_be_measured_is_named(labels, scores, message):
    with pytest.raises(UserError, match=message):
        image_metrics(labels, scores)


@settings(deadline=None, max_examples=100)
@given(scored(), st.integers(0, 3))
def test_a_resample_is_that_many_copies_of_each_image(case, seed):
    labels, scores = case
    counts_RN = resample_counts(labels, 5, seed)
    assert (counts_RN[:, labels == 1].sum(1) == (labels == 1).sum()).all()
    assert (counts_RN.sum(1) == len(labels)).all()
    found = resampled(labels, scores, counts_RN)
    for row, counts in enumerate(counts_RN):
        copies = image_metrics(np.repeat(labels, counts), np.repeat(scores, counts)).values()
        assert {name: found[name][row] for name in METRICS} == pytest.approx(copies)


def test_resamples_draw_each_image_as_often_as_any_other():
    counts_RN = resample_counts(np.array([0] * 5 + [1] * 20), 4000, 0)
    np.testing.assert_allclose(counts_RN.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(counts_RN[:, :5].var(0), 4 / 5, atol=0.1)
    np.testing.assert_allclose(counts_RN[:, 5:].var(0), 19 / 20, atol=0.1)


def intervals(labels, scores, seed: int = 0) -> dict[str, Interval | None]:
    """The bootstrap intervals of one set of images, stratified by label."""
    types = ["broken" if label else "good" for label in labels]
    return group_metrics(types, scores, seed=seed).pooled.intervals


def overlapping(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1], count)
    return labels, rng.normal(labels, 1)


def test_intervals_contain_the_value_shrink_with_more_images_and_repeat():
    few, many = (intervals(*overlapping(count), seed=1) for count in (20, 500))
    for name in METRICS:
        for found, count in ((few, 20), (many, 500)):
            low, high = found[name]
            assert low < getattr(image_metrics(*overlapping(count)), name) < high
        assert many[name][1] - many[name][0] < (few[name][1] - few[name][0]) / 2
    assert intervals(*overlapping(20), seed=1) == few
    assert intervals(*overlapping(20), seed=2) != few
    assert intervals([0, 0, 1, 1], [1, 2, 3, 4])["image_auroc"] == (1, 1)


def test_the_interval_has_the_theoretical_width():
    """Hanley and McNeil's standard error of AUROC, for scores that are normally distributed."""
    labels, scores = overlapping(500)
    area = image_metrics(labels, scores).image_auroc
    low, high = intervals(labels, scores)["image_auroc"]
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (area * (1 - area) + 499 * (q1 - area**2 + q2 - area**2)) / 500**2
    assert high - low == pytest.approx(2 * 1.96 * variance**0.5, rel=0.1)


def test_a_large_set_is_resampled_in_parts_to_the_same_values(monkeypatch):
    whole = intervals(*overlapping(50))
    monkeypatch.setattr("detectors.metrics.bootstrap._CELLS", 350)
    assert intervals(*overlapping(50)) == whole


def test_loco_groups_are_compared_with_all_good_images_and_have_a_mean():
    types = ["good"] * 3 + ["logical_anomalies"] * 2 + ["structural_anomalies"]
    scores = [0, 1, 2, 1.5, 3, 0.5]
    found = group_metrics(types, scores, resamples=200)
    assert list(found.groups) == ["logical", "structural"]
    assert found.groups["logical"].values["image_auroc"] == pytest.approx(5 / 6)
    assert found.groups["structural"].values["image_auroc"] == pytest.approx(1 / 3)
    assert found.mean.values["image_auroc"] == pytest.approx(7 / 12)
    assert found.pooled.values["image_auroc"] == pytest.approx(6 / 9)
    assert found.groups["logical"].metrics.normal == 3
    low, high = found.mean.intervals["image_auroc"]
    assert low <= 7 / 12 <= high


def test_elsewhere_every_type_is_a_group_and_there_is_no_mean():
    found = group_metrics(["good", "scratch", "hole", "scratch"], [0.1, 0.2, 0.0, 0.3])
    assert list(found.groups) == ["hole", "scratch"]
    assert found.mean is None
    assert found.groups["hole"].values["image_auroc"] == 0
    assert found.pooled.values == image_metrics([0, 1, 1, 1], [0.1, 0.2, 0.0, 0.3]).values()
    only_logical = group_metrics(["good", "logical_anomalies"], [0.1, 0.2])
    assert only_logical.mean is None
    with pytest.raises(UserError, match=r"types_N must be \(3,\)"):
        group_metrics(["good"], [1, 2, 3])
