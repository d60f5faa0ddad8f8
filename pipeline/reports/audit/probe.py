"""A linear probe and an honest AUROC: can two groups of regions be told apart by their statistics?

The probe is a logistic regression on standardised features. It is always asked about images that
it has not seen: folds are made of source images, so no image is on both sides. Scores of different
folds come from different fits and are not comparable; pairs are therefore formed within a fold
only. The interval is a bootstrap over source images, because samples of one image are no
independent witnesses, widened for what refitting the probe would add (`TWICE`).

The fit is Newton's method on some thirty columns: a millisecond, where importing a library for it
takes a second of every run. A test holds it against scikit-learn.

Shapes: N regions or images; F features; G source images; R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

FOLDS, REPEATS = 5, 3
RESAMPLES = 1000
LEVEL = 0.95
SEED = 20261122
PENALTY = 0.1
"""scikit-learn's C: some thirty features and often a hundred examples ask for a strong one."""
STEPS = 50
"""Newton steps at most; a penalised fit takes six to ten."""
TWICE = 2**0.5
"""Each pair of images is judged twice - by the fit that knew the one and by that which knew the
other - and both judgements err together: the variance is double what resampling shows."""
FAR = 5.0
"""Standardised features are cut off here: one strange region must not decide a score."""


@dataclass(frozen=True, slots=True)
class Area:
    """An AUROC with its interval over `images` source images; None where no pair can be formed."""

    auroc: float | None
    interval: tuple[float, float] | None
    positives: int
    negatives: int
    images: int

    def to_json(self) -> dict[str, Any]:
        return {
            "auroc": None if self.auroc is None else round(self.auroc, 4),
            "interval": None if self.interval is None else [round(v, 4) for v in self.interval],
            "positives": self.positives,
            "negatives": self.negatives,
            "images": self.images,
        }


def probe(features_NF: np.ndarray, labels_N: Sequence[int], groups_N: Sequence[str]) -> Area:
    """How well unseen images' regions of label 1 are told from those of label 0.

    What a probe learns by chance from some images is wrong about the rest, so a useless one comes
    out a little below 0.5. That is no evidence of anything: the interval then reaches up to 0.5.
    """
    labels, (names, groups) = np.asarray(labels_N), _numbered(groups_N)
    parts = []
    for repeat in range(REPEATS):
        for train, test in folds(labels, groups, SEED + repeat):
            scores = _scores(features_NF[train], labels[train], features_NF[test])
            parts.append((scores, labels[test], groups[test]))
    found = _area(parts, labels, len(names))
    if found.auroc is None or found.interval is None:
        return found
    low, high = (found.auroc + TWICE * (end - found.auroc) for end in found.interval)
    return replace(found, interval=(max(0.0, low), min(1.0, max(0.5, high))))


def folds(
    labels_N: np.ndarray, groups_N: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to learn from and rows to ask about; both labels on both sides, no group on both.

    Groups are shuffled, sorted by how much label 1 each brings and dealt out in turn.
    """
    count = min(FOLDS, *(len(set(groups_N[labels_N == label].tolist())) for label in (0, 1)))
    if count < 2:
        return []
    names = np.random.default_rng(seed).permutation(np.unique(groups_N))
    surplus = [int((2 * labels_N[groups_N == name] - 1).sum()) for name in names]
    dealt = names[np.argsort(surplus, kind="stable")]
    parts = [np.isin(groups_N, dealt[fold::count]) for fold in range(count)]
    return [
        (np.flatnonzero(~asked_N), np.flatnonzero(asked_N))
        for asked_N in parts
        if len(set(labels_N[~asked_N].tolist())) == len(set(labels_N[asked_N].tolist())) == 2
    ]


def area(
    scores_N: np.ndarray, labels_N: Sequence[int], groups_N: Sequence[str], folds_N: Sequence[int]
) -> Area:
    """The AUROC of scores that exist already; only scores of one fold are compared."""
    labels, (names, groups), fold = np.asarray(labels_N), _numbered(groups_N), np.asarray(folds_N)
    rows = [fold == number for number in np.unique(fold)]
    parts = [(scores_N[row], labels[row], groups[row]) for row in rows]
    return _area(parts, labels, len(names))


def _scores(train_NF: np.ndarray, labels_N: np.ndarray, test_NF: np.ndarray) -> np.ndarray:
    mean_F, deviation_F = train_NF.mean(0), train_NF.std(0)
    deviation_F = np.where(deviation_F > 1e-9, deviation_F, 1.0)
    train_NF, test_NF = (
        np.clip((rows - mean_F) / deviation_F, -FAR, FAR) for rows in (train_NF, test_NF)
    )
    weights_F, offset = logistic(train_NF, labels_N)
    # Equal rows must tie, whatever the order in which a product was summed up.
    return np.round(test_NF @ weights_F + offset, 6)


def logistic(rows_NF: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (F,) and offset of the logistic regression with both classes weighing the same.

    The minimum of |weights|^2 / 2 + PENALTY * sum of balanced losses, as scikit-learn states it.
    """
    count, features = rows_NF.shape
    share_N = np.where(labels_N == 1, (labels_N == 1).mean(), (labels_N == 0).mean())
    cost_N = PENALTY / (2 * share_N)
    rows_ND = np.hstack([rows_NF, np.ones((count, 1))])
    ridge_D = np.append(np.ones(features), 0.0)

    def loss(theta_D: np.ndarray) -> float:
        scores_N = rows_ND @ theta_D
        losses_N = np.logaddexp(0, scores_N) - labels_N * scores_N
        return float(cost_N @ losses_N + (ridge_D * theta_D) @ theta_D / 2)

    theta_D = np.zeros(features + 1)
    here = loss(theta_D)
    for _ in range(STEPS):
        chance_N = 1 / (1 + np.exp(-np.clip(rows_ND @ theta_D, -500, 500)))
        slope_D = rows_ND.T @ (cost_N * (chance_N - labels_N)) + ridge_D * theta_D
        bend_N = cost_N * chance_N * (1 - chance_N) + 1e-12
        bend_DD = (rows_ND * bend_N[:, None]).T @ rows_ND + np.diag(ridge_D)
        step_D = np.linalg.solve(bend_DD, slope_D)
        there = loss(theta_D - step_D)
        while there > here + 1e-12 and np.abs(step_D).max() > 1e-9:
            step_D = step_D / 2
            there = loss(theta_D - step_D)
        theta_D, here = theta_D - step_D, there
        if np.abs(step_D).max() < 1e-9:
            break
    return theta_D[:-1], float(theta_D[-1])


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def _area(parts: Sequence[_Part], labels_N: np.ndarray, groups: int) -> Area:
    """Share of (1, 0) pairs in the right order, ties half; pairs are counted per pair of images.

    With the counts in two G x G tables a resample of images is a vector of weights, and its AUROC
    two products.
    """
    wins_GG, pairs_GG = np.zeros((groups, groups)), np.zeros((groups, groups))
    for scores_N, part_N, groups_N in parts:
        one, zero = part_N == 1, part_N == 0
        ahead = np.sign(scores_N[one][:, None] - scores_N[zero][None]) / 2 + 0.5
        where = (groups_N[one][:, None], groups_N[zero][None])
        np.add.at(wins_GG, where, ahead)
        np.add.at(pairs_GG, where, 1.0)
    positives, negatives = int((labels_N == 1).sum()), int((labels_N == 0).sum())
    if not pairs_GG.any():
        return Area(None, None, positives, negatives, groups)
    rng = np.random.default_rng(SEED)
    weights_RG = rng.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(float)
    total_R, wins_R = _resampled(pairs_GG, weights_RG), _resampled(wins_GG, weights_RG)
    values_R = wins_R[total_R > 0] / total_R[total_R > 0]
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(values_R, tails).tolist() if len(values_R) else (0.0, 1.0)
    return Area(float(wins_GG.sum() / pairs_GG.sum()), (low, high), positives, negatives, groups)


def _resampled(table_GG: np.ndarray, weights_RG: np.ndarray) -> np.ndarray:
    """(R,) sums of a table of pairs over images drawn `weights` times.

    An image that was drawn twice is no pair of two images: pairs inside one count once per draw.
    """
    own_G = np.diag(table_GG)
    between_GG = table_GG - np.diag(own_G)
    return ((weights_RG @ between_GG) * weights_RG).sum(1) + weights_RG @ own_G


def _numbered(groups_N: Sequence[str]) -> tuple[list[str], np.ndarray]:
    names = sorted(set(groups_N))
    at = {name: number for number, name in enumerate(names)}
    return names, np.array([at[name] for name in groups_N], np.int64)
