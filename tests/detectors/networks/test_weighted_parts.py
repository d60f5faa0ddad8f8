"""The weights of the parts of a score: which parts get some, and how much."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from detectors.networks.weighted_parts import (
    RIDGES,
    WeightedParts,
    chosen_ridge,
    regression_weights,
)

PARTS = 5


def drawn(seen: dict[int, float], normals: int = 100, anomalies: int = 80, controls: int = 40):
    """Noise; part p of every anomaly is higher by `seen[p]`."""
    rng = torch.Generator().manual_seed(0)
    normals_NP = torch.randn(normals, PARTS, generator=rng).double()
    pairs_MP = torch.randn(anomalies + controls, PARTS, generator=rng).double()
    labels_M = (torch.arange(anomalies + controls) < anomalies).long()
    for part, by in seen.items():
        pairs_MP[:anomalies, part] += by
    return normals_NP, pairs_MP, labels_M


def weights_of(
    normals_NP: torch.Tensor,
    pairs_MP: torch.Tensor,
    labels_M: torch.Tensor,
    kinds_M: torch.Tensor | None = None,
) -> list[float]:
    weighted = WeightedParts(normals_NP.shape[1])
    kinds_M = torch.zeros_like(labels_M) if kinds_M is None else kinds_M
    weighted.fuse(normals_NP, pairs_MP, labels_M, kinds_M)
    return weighted.weight_P.tolist()


def test_parts_that_see_share_the_weight_and_noise_has_next_to_none() -> None:
    weights = weights_of(*drawn({1: 2.0, 3: 2.0}))
    assert sum(weights) == pytest.approx(1)
    assert min(weights[1], weights[3]) > 0.3
    assert weights[1] + weights[3] > 0.9


def test_copies_of_a_part_weigh_the_same() -> None:
    """Where a choice of one of them would be chance."""
    normals_NP, pairs_MP, labels_M = drawn({1: 1.0})
    normals_NP[:, 2], pairs_MP[:, 2] = normals_NP[:, 1], pairs_MP[:, 1]
    weights = weights_of(normals_NP, pairs_MP, labels_M)
    assert weights[1] == pytest.approx(weights[2], abs=1e-4)


def test_no_part_counts_against_an_anomaly() -> None:
    weights = weights_of(*drawn({0: 1.0, 4: -2.0}))
    assert weights[4] == 0
    assert min(weights) >= 0


def test_a_part_that_finds_controls_too_weighs_less_than_a_weaker_one_that_does_not() -> None:
    normals_NP, pairs_MP, labels_M = drawn({2: 2.0}, controls=10)
    # Traces of editing: stronger than the anomaly, in controls as well.
    pairs_MP[:, 0] += 4
    weights = weights_of(normals_NP, pairs_MP, labels_M)
    assert weights[2] > weights[0]


def test_an_anomaly_a_hundred_deviations_away_earns_a_part_no_more_than_one_that_is_found() -> None:
    """A part with such anomalies is sensitive to everything, the next change of the light, too."""
    far = drawn({0: 12.0, 1: 120.0})
    weights = weights_of(*far)
    assert weights[0] == pytest.approx(weights[1], rel=0.1)
    # In proportion to the separation it would be ten times as much.
    assert regression_weights(*(one.numpy() for one in far), RIDGES[-1]).argmax() == 1


def test_weights_are_those_of_scikit_learns_regression() -> None:
    normals_NP, pairs_MP, labels_M = (one.numpy() for one in drawn({0: 1.5, 1: 1.0, 2: 0.8}))
    found = regression_weights(normals_NP[:, :3], pairs_MP[:, :3], labels_M, RIDGES[0])
    share = np.concatenate(
        [np.full(100, 0.25 / 100), np.full(80, 0.5 / 80), np.full(40, 0.25 / 40)]
    )
    # Its penalty is half the squared weights, on a sum over images.
    other = LogisticRegression(C=1 / (2 * RIDGES[0]), tol=1e-8)
    truth = np.concatenate([np.zeros(100), labels_M])
    other.fit(np.concatenate([normals_NP, pairs_MP])[:, :3], truth, sample_weight=share)
    np.testing.assert_allclose(found, other.coef_[0], atol=1e-3)


def test_without_synthetic_anomalies_the_first_part_is_the_score() -> None:
    normals_NP, pairs_MP, labels_M = drawn({1: 3.0})
    weighted = WeightedParts(PARTS)
    weighted.fuse(normals_NP, pairs_MP, labels_M, torch.zeros_like(labels_M))
    # An earlier choice is forgotten.
    weighted.fuse(normals_NP, pairs_MP, torch.zeros_like(labels_M), torch.zeros_like(labels_M))
    first_N = (normals_NP[:, 0] - normals_NP[:, 0].mean()) / normals_NP[:, 0].std(correction=0)
    torch.testing.assert_close(weighted(normals_NP.float()), first_N.float())


def test_a_hard_kind_does_not_outweigh_what_separates_all_others() -> None:
    """Part 0 sees the hard kind a little; part 1 sees all kinds but that one, part 0 as well."""
    normals_NP, pairs_MP, labels_M = drawn({0: 1.2}, anomalies=240, controls=40)
    kinds_M = torch.arange(280) % 4
    hard_M = kinds_M == 0
    pairs_MP[~hard_M & (labels_M == 1), 1] += 1.2
    normals, pairs, labels, kinds = (
        one.numpy() for one in (normals_NP, pairs_MP, labels_M, kinds_M)
    )
    weak, strong = (
        regression_weights(normals, pairs, labels, ridge) for ridge in (RIDGES[0], RIDGES[-1])
    )
    # Even weights separate unseen kinds as well, so they are taken.
    assert chosen_ridge(normals, pairs, labels, kinds) == RIDGES[-1]
    assert strong[1] / strong[0] > weak[1] / weak[0]
    assert weights_of(normals_NP, pairs_MP, labels_M, kinds_M)[1] == pytest.approx(
        strong[1] / strong.sum(), abs=0.005
    )


def test_one_good_part_among_copies_of_a_weak_one_keeps_its_weight() -> None:
    """In proportion to what each separates alone, twelve copies of noise would outweigh it."""
    normals_NP, pairs_MP, labels_M = drawn({0: 2.5, 1: 0.5}, anomalies=160)
    copies = [0, *[1] * 12]
    normals_NP, pairs_MP = normals_NP[:, copies], pairs_MP[:, copies]
    kinds_M = torch.arange(len(labels_M)) % 4
    given = [one.numpy() for one in (normals_NP, pairs_MP, labels_M, kinds_M)]
    assert chosen_ridge(*given) < RIDGES[-1]
    assert weights_of(normals_NP, pairs_MP, labels_M, kinds_M)[0] > 0.5


def test_a_single_kind_leaves_none_to_judge_by() -> None:
    given = [one.numpy() for one in drawn({1: 2.0})]
    assert chosen_ridge(*given, np.zeros(len(given[2]), np.int64)) == RIDGES[0]
