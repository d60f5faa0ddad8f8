"""A linear probe and its AUROC: can two groups of regions be told apart by their statistics?

The probe is scikit-learn's logistic regression on standardised features. It is evaluated on unseen
images only: folds are made of source images (`StratifiedGroupKFold`), so no image is on both sides.
Scores of different folds come from different fits and are not comparable, so positives and
negatives are compared within a fold only. The interval is a bootstrap over source images, because
samples of one image are not independent, widened for the variance that refitting the probe would
add (`REFIT`).

Shapes: N regions or images; F features; G source images; R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Folds of one cross-validation, and how often it is repeated with other folds.
FOLDS, REPEATS = 5, 3
# Bootstrap resamples, and the coverage of the interval.
RESAMPLES, LEVEL = 1000, 0.95
# Seed of folds and bootstrap: the audit of a version is part of its index and must not vary.
SEED = 20261122
# scikit-learn's C. Some thirty features and often only a hundred examples need strong
# regularisation.
PENALTY = 0.1
# Factor on the interval's half-widths. Each pair of images is scored twice, by the fit that was
# trained on the one and by the fit that was trained on the other, and both scores err together, so
# the variance is twice what resampling shows.
REFIT = 2**0.5
# Standardised features are clipped here, so one outlier cannot decide a score.
CLIP = 5.0


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
    """AUROC of the probe for label 1 against label 0, on regions of unseen images.

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
    low, high = (found.auroc + REFIT * (end - found.auroc) for end in found.interval)
    return replace(found, interval=(max(0.0, low), min(1.0, max(0.5, high))))


def folds(
    labels_N: np.ndarray, groups_N: np.ndarray, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to train on and rows to test on; both labels on both sides, no group on both.

    Empty where a label occurs in fewer than two groups.
    """
    # Imported here, as below: scikit-learn takes a second to load, which only audits should pay.
    from sklearn.model_selection import StratifiedGroupKFold

    count = min(FOLDS, *(len(set(groups_N[labels_N == label].tolist())) for label in (0, 1)))
    if count < 2:
        return []
    splitter = StratifiedGroupKFold(n_splits=count, shuffle=True, random_state=seed)
    # Stratification over groups is a heuristic; a fold that lacks a label is dropped.
    return [
        (train, test)
        for train, test in splitter.split(labels_N, labels_N, groups_N)
        if len(np.unique(labels_N[train])) == len(np.unique(labels_N[test])) == 2
    ]


def area(
    scores_N: np.ndarray, labels_N: Sequence[int], groups_N: Sequence[str], folds_N: Sequence[int]
) -> Area:
    """The AUROC of given scores; only scores of one fold are compared."""
    labels, (names, groups), fold = np.asarray(labels_N), _numbered(groups_N), np.asarray(folds_N)
    rows = [fold == number for number in np.unique(fold)]
    parts = [(scores_N[row], labels[row], groups[row]) for row in rows]
    return _area(parts, labels, len(names))


def _scores(train_NF: np.ndarray, labels_N: np.ndarray, test_NF: np.ndarray) -> np.ndarray:
    """Scores of the test rows by a probe fitted on the training rows."""
    from sklearn import config_context
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    # Features are finite, and looking whether they are takes as long as the fit.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        scaler = StandardScaler().fit(train_NF)
        train_NF, test_NF = (
            np.clip(scaler.transform(rows), -CLIP, CLIP) for rows in (train_NF, test_NF)
        )
        # Balanced, because anomalies often outnumber controls. Newton's method takes a few steps on
        # thirty features and, unlike the default solver, needs no tuning of its tolerance.
        model = LogisticRegression(C=PENALTY, class_weight="balanced", solver="newton-cholesky")
        # Equal rows must tie, whatever the order in which a product was summed.
        return np.round(model.fit(train_NF, labels_N).decision_function(test_NF), 6)


_Part = tuple[np.ndarray, np.ndarray, np.ndarray]


def _area(parts: Sequence[_Part], labels_N: np.ndarray, groups: int) -> Area:
    """AUROC over the folds, each weighted by its (1, 0) pairs, and its bootstrap interval.

    For the bootstrap, correctly ordered pairs (ties half) and all pairs are counted per pair of
    images in two G x G tables. A resample of images is then a vector of weights, and its AUROC a
    ratio of two quadratic forms.
    """
    positives, negatives = int((labels_N == 1).sum()), int((labels_N == 0).sum())
    # A fold with one label only has no pair.
    parts = [part for part in parts if len(np.unique(part[1])) == 2]
    if not parts:
        return Area(None, None, positives, negatives, groups)
    wins_GG, pairs_GG = np.zeros((groups, groups)), np.zeros((groups, groups))
    for scores_N, part_N, groups_N in parts:
        one, zero = part_N == 1, part_N == 0
        ahead = np.sign(scores_N[one][:, None] - scores_N[zero][None]) / 2 + 0.5
        where = (groups_N[one][:, None], groups_N[zero][None])
        np.add.at(wins_GG, where, ahead)
        np.add.at(pairs_GG, where, 1.0)
    rng = np.random.default_rng(SEED)
    weights_RG = rng.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES).astype(float)
    total_R, wins_R = _resampled(pairs_GG, weights_RG), _resampled(wins_GG, weights_RG)
    # With few images a resample may hold one label only; it says nothing.
    values_R = wins_R[total_R > 0] / total_R[total_R > 0]
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(values_R, tails).tolist() if len(values_R) else (0.0, 1.0)
    auroc = float(wins_GG.sum() / pairs_GG.sum())
    return Area(auroc, (low, high), positives, negatives, groups)


def _resampled(table_GG: np.ndarray, weights_RG: np.ndarray) -> np.ndarray:
    """(R,) sums of a table of pairs over images drawn `weights` times.

    An image that is drawn twice does not become two images: pairs inside it count once per draw.
    """
    own_G = np.diag(table_GG)
    between_GG = table_GG - np.diag(own_G)
    return ((weights_RG @ between_GG) * weights_RG).sum(1) + weights_RG @ own_G


def _numbered(groups_N: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Sorted group names, and each row's index among them."""
    names = sorted(set(groups_N))
    at = {name: number for number, name in enumerate(names)}
    return names, np.array([at[name] for name in groups_N], np.int64)
