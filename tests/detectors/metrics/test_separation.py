"""The criterion of choices, against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from detectors.metrics.separation import controls_told, separation

RNG = np.random.default_rng(0)
# Few distinct values, so that there are ties.
NORMAL, PAIR = RNG.integers(0, 6, 30) / 2, RNG.integers(2, 8, 25) / 2
LABELS = np.repeat([1, 0], [15, 10])


def auroc(negative: np.ndarray, positive: np.ndarray) -> float:
    return float(
        roc_auc_score([0] * len(negative) + [1] * len(positive), np.r_[negative, positive])
    )


def test_normals_and_controls_count_alike() -> None:
    anomalous, control = PAIR[LABELS == 1], PAIR[LABELS == 0]
    expected = (auroc(NORMAL, anomalous) + auroc(control, anomalous)) / 2
    assert separation(NORMAL, PAIR, LABELS) == pytest.approx(expected)
    assert separation(NORMAL, PAIR, LABELS, controls=False) == pytest.approx(
        auroc(NORMAL, anomalous)
    )


def test_what_is_missing_does_not_count() -> None:
    anomalous = np.ones(25, int)
    assert separation(NORMAL, PAIR, anomalous) == pytest.approx(auroc(NORMAL, PAIR))
    assert separation(NORMAL[:0], PAIR, LABELS) == pytest.approx(
        auroc(PAIR[LABELS == 0], PAIR[LABELS == 1])
    )
    assert separation(NORMAL, PAIR, 1 - anomalous) is None
    assert separation(NORMAL[:0], PAIR, anomalous) is None


def test_a_score_that_sees_edits_alone_is_no_better_than_chance() -> None:
    normal, edited = np.zeros(20), 1 + RNG.random(40)
    labels = np.arange(40) % 2
    assert separation(normal, edited, labels) == pytest.approx(0.75, abs=0.15)
    assert separation(normal, edited, labels, controls=False) == 1.0


def test_controls_are_told_where_chance_does_not_explain_it() -> None:
    normal, labels = RNG.normal(size=200), np.zeros(50, int)
    like, unlike = RNG.normal(size=50), RNG.normal(1, 1, 50)
    assert controls_told(normal, like, labels) < 0.5 < controls_told(normal, unlike, labels)
    # The variance of the rank sum of few images is large: three of three may well be chance.
    assert controls_told(normal[:2], np.full(3, 9.0), labels[:3]) < 0.5
    assert controls_told(normal, unlike, 1 - labels) == controls_told(normal[:0], like, labels) == 0
