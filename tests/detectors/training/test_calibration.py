"""Thresholds, AUROC of synthetics and parity, against plain counting and scikit-learn."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata
from sklearn.metrics import f1_score, roc_auc_score

from detectors.training.calibration import (
    NO_NORMALS,
    false_alarm_threshold,
    from_scores,
    normals_for,
    rate_interval,
)
from detectors.training.precision_parity import FEWEST, RANKS, compare_scores
from pipeline.kinds import KINDS

NUMBERS = st.integers(-50, 50).map(lambda n: n / 8)
SCORES = st.lists(NUMBERS, min_size=1, max_size=60).map(lambda s: np.array(s, np.float32))


@given(SCORES, st.sampled_from([0.01, 0.05, 0.2]))
def test_a_threshold_is_the_lowest_that_keeps_the_conformal_promise(normal_N, share):
    threshold, rate = false_alarm_threshold(normal_N, share)
    reaching, count = (normal_N >= np.float32(threshold)).sum(), len(normal_N)
    # A fresh normal has each of the N + 1 ranks with the same probability (ties only help).
    assert (reaching + 1) / (count + 1) <= rate
    assert rate <= max(share, 1 / (count + 1)) + 1e-12
    assert rate + 1 / (count + 1) > share
    # Distinct scores: one more normal may not reach it.
    lower = np.nextafter(np.float32(threshold), np.float32(-np.inf))
    assert ((normal_N >= lower).sum() + 1) / (count + 1) > rate - 1e-12
    np.testing.assert_array_equal(
        normal_N >= np.float32(threshold), normal_N > np.float32(threshold)
    )


@pytest.mark.parametrize("count", [5, 20, 60, 200])
def test_fresh_normals_reach_a_threshold_as_often_as_promised(count):
    rng = np.random.default_rng(count)
    rates = []
    for _ in range(400):
        threshold, rate = false_alarm_threshold(rng.normal(size=count).astype(np.float32), 0.05)
        # The exact rate of the standard normal distribution.
        rates.append(norm.sf(threshold))
    assert np.mean(rates) == pytest.approx(rate, rel=0.2)
    low, high = rate_interval(count, rate)
    inside = np.mean((low <= np.array(rates)) & (np.array(rates) <= high))
    assert inside == pytest.approx(0.95, abs=0.04)


def test_five_normals_promise_one_false_alarm_in_six_and_say_so():
    normal_N = np.array([3, 1, 2, 5, 4], np.float32)
    found = from_scores(normal_N, np.zeros(0, np.float32), *[np.zeros(0, np.int64)] * 2)
    assert found.threshold_1 == found.threshold_5 == np.nextafter(np.float32(5), np.float32(9))
    assert found.rate_1 == found.rate_5 == pytest.approx(1 / 6)
    assert found.auroc is found.threshold_f1 is found.control_false_alarms is None
    assert set(found.notes) == {
        "auroc", "threshold_f1", "control_false_alarms", "threshold_1", "threshold_5",
    }  # fmt: skip
    assert "16.7% at best, not of 5%: that takes 19" in found.notes["threshold_5"]


@pytest.mark.parametrize(("count", "reaching"), [(19, 0), (38, 0), (39, 1), (99, 4)])
def test_how_many_normals_may_reach_the_5_percent_threshold(count, reaching):
    normal_N = np.arange(count, dtype=np.float32)
    threshold, rate = false_alarm_threshold(normal_N, 0.05)
    assert (normal_N >= threshold).sum() == reaching
    assert rate == (reaching + 1) / (count + 1)


def test_the_number_of_normals_that_a_rate_takes():
    assert [normals_for(share) for share in (0.5, 0.05, 0.01)] == [1, 19, 99]


def test_without_normals_nothing_is_calibrated_and_notes_say_why():
    found = from_scores(np.zeros(0, np.float32), np.ones(2, np.float32), np.ones(2), np.zeros(2))
    assert found.threshold_5 is found.auroc is None
    assert set(found.notes.values()) == {NO_NORMALS}


# Few examples, because scikit-learn is slow on each.
@settings(deadline=None, max_examples=30)
@given(SCORES, SCORES)
def test_auroc_and_best_f1_equal_scikit_learn(normal_N, pair_N):
    kinds_N = np.arange(len(pair_N)) % len(KINDS)
    labels_N = (kinds_N < KINDS.index("control_noop")).astype(np.int64)
    found = from_scores(normal_N, pair_N, labels_N, kinds_N)
    anomalous_N = pair_N[labels_N == 1]
    truth_N = np.repeat([0, 1], [len(normal_N), len(anomalous_N)])
    scores_N = np.concatenate([normal_N, anomalous_N])
    assert found.auroc == pytest.approx(roc_auc_score(truth_N, scores_N))
    best = max(f1_score(truth_N, scores_N >= t) for t in scores_N)
    assert f1_score(truth_N, scores_N >= found.threshold_f1) == pytest.approx(best)
    assert not (scores_N == found.threshold_f1).any()
    for number in range(4):
        of_kind = pair_N[kinds_N == number]
        if len(of_kind):
            truth_K = np.repeat([0, 1], [len(normal_N), len(of_kind)])
            expected = roc_auc_score(truth_K, np.concatenate([normal_N, of_kind]))
            assert found.auroc_by_kind[KINDS[number]] == pytest.approx(expected)
    controls = pair_N[labels_N == 0]
    if len(controls):
        assert found.control_false_alarms == (controls >= found.threshold_5).mean()


def test_parity_is_the_difference_in_deviations_and_the_rank_correlation():
    rng = np.random.default_rng(0)
    exact_N = rng.normal(5, 2, 40).astype(np.float32)
    used_N = (exact_N + rng.normal(0, 0.2, 40)).astype(np.float32)
    found = compare_scores(exact_N, used_N, "bf16")
    assert found.difference == pytest.approx(
        np.abs(exact_N - used_N).max() / exact_N.std(), rel=1e-5
    )
    expected = np.corrcoef(rankdata(exact_N), rankdata(used_N))[0, 1]
    assert found.ranks == pytest.approx(expected)
    assert compare_scores(exact_N, exact_N, "bf16").verdict == "same"
    assert compare_scores(exact_N, -exact_N, "bf16").verdict == "differs"
    assert compare_scores(exact_N, exact_N + 1, "bf16").verdict == "differs"
    assert compare_scores(np.ones(40, np.float32), used_N, "bf16").verdict == "unknown"


def test_a_few_images_say_nothing_about_precision():
    exact_N = np.array([1.0, 1.01, 2.0], np.float32)
    # Two close ones trade places: a rank correlation of 0.5.
    assert compare_scores(exact_N, exact_N[[1, 0, 2]], "bf16").verdict == "unknown"
    many_N = np.arange(FEWEST, dtype=np.float32)
    traded_N = many_N.copy()
    traded_N[[4, 5]] = traded_N[[5, 4]] + np.float32([0.8, -0.8])
    found = compare_scores(many_N, traded_N, "bf16")
    assert found.ranks is not None
    assert RANKS < found.ranks < 1


def test_losses_are_read_together_and_the_first_bad_step_is_named():
    from detectors.training.loss_log import LossLog
    from detectors.training.progress import Watcher
    from detectors.training.tensorboard import Board
    from pipeline.errors import UserError

    class Notes(Watcher):
        def __init__(self) -> None:
            self.steps: list[tuple[int, dict[str, float]]] = []

        def step(self, done: int, losses: object) -> None:
            self.steps.append((done, dict(losses)))  # type: ignore[call-overload]

    notes = Notes()
    log = LossLog(400, on_gpu=True, watcher=notes, board=Board("unused", on=False))  # type: ignore[arg-type]
    for done in range(1, 9):
        # Detectors may drop terms during training.
        names = ("a", "b") if done < 3 else ("a",)
        log.add(done, {name: torch.tensor(float(done)) for name in names})
    assert notes.steps == [(4, {"a": 2.5, "b": 1.5}), (8, {"a": 6.5})]
    for done, value in ((9, 1.0), (10, float("inf")), (11, float("nan"))):
        log.add(done, {"a": torch.tensor(value), "b": torch.tensor(0.5)})
    with pytest.raises(UserError, match=r"step 10 is not finite: a = inf, b = 0\.5"):
        log.fetch()
