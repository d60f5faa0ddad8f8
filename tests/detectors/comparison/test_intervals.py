"""The macro AUROC of a comparison against scikit-learn, and its interval."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from detectors.comparison.intervals import auroc_by_kind, macro_auroc_interval


def test_auroc_of_each_kind_is_against_all_normals():
    rng = np.random.default_rng(0)
    normals = rng.normal(size=15)
    kinds = {"missing": rng.normal(1, 1, 6), "extra": rng.normal(2, 1, 3)}
    found = auroc_by_kind(normals, kinds)
    for kind, scores in kinds.items():
        labels = [0] * 15 + [1] * len(scores)
        assert found[kind] == pytest.approx(roc_auc_score(labels, [*normals, *scores]))


def test_the_macro_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(1)
    normals = rng.normal(size=30)
    kinds = [rng.normal(1, 1, 12), rng.normal(0.5, 1, 8)]
    means = []
    for _ in range(1500):
        drawn = rng.choice(normals, 30)
        of_kinds = [
            np.mean(rng.choice(scores, len(scores))[:, None] > drawn[None]) for scores in kinds
        ]
        means.append(np.mean(of_kinds))
    expected = np.quantile(means, [0.025, 0.975])
    found = macro_auroc_interval(normals, dict(zip("ab", kinds, strict=True)), resamples=1500)
    assert found == pytest.approx(expected, abs=0.02)


def test_without_a_class_there_is_no_interval():
    assert macro_auroc_interval(np.zeros(3), {}) is None
    assert macro_auroc_interval(np.zeros(0), {"missing": np.ones(2)}) is None
