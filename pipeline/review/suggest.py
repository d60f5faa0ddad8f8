"""Limits of the gate that would have rejected what reviewers rejected; never applied by itself.

For every check, the limit is sought that tells rejected from kept samples best (F1). The best of
many limits looks good by chance, so each is also judged on samples it was not chosen on: fivefold
cross-validation, and Fisher's exact test on its result. Only limits that pass are put into the
lines for the manifest. Samples that are unsure or disputed take no part.

Shapes: N reviewed samples, kept or rejected.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.dataset.attempts import read_accepted
from pipeline.dataset.files import RECORDS
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.gate.checks import Check, Origin, stored_limits
from pipeline.gate.settings import GateSettings
from pipeline.review.about import Reviews
from pipeline.review.scores import CheckScores, check_scores

FOLDS = 5
# Below so many of each, no limit can be told from chance.
FEWEST = 5
# Largest chance of at least such a result without any relation, divided by the number of checks.
CHANCE = 0.05


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A limit of one check, with what it would reject among the reviewed samples.

    `caught` of the samples that reviewers rejected, `wrongly` of those that they kept; `precision`
    and `recall` follow. The `tested_` ones are those of the cross-validation, `chance` is the
    probability of a result as good without any relation. `pasted` says whether it is among the
    lines for the manifest.
    """

    check: Check
    now: float | None
    origin: Origin
    value: float
    caught: int
    wrongly: int
    precision: float
    recall: float
    tested_precision: float
    tested_recall: float
    chance: float
    pasted: bool = False

    def to_json(self) -> dict[str, Any]:
        names = ("caught", "wrongly", "precision", "recall", "tested_precision", "tested_recall",
                 "chance", "pasted")  # fmt: skip
        return {
            "limit": self.check.limit,
            "score": self.check.score,
            "reason": self.check.reason,
            "refused_when": self.check.rejected_when,
            "now": self.now,
            "origin": self.origin,
            "suggested": self.value,
            **{name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True, slots=True)
class Suggestions:
    """All suggestions, the best first; precision and recall of the lines for the manifest together.

    `rejected` and `kept` count the reviewed samples. The two shares are None without any line.
    """

    category: str
    rejected: int
    kept: int
    rows: tuple[Suggestion, ...]
    precision: float | None
    recall: float | None

    @property
    def lines(self) -> str:
        """The lines for the manifest; empty where no limit tells them apart."""
        pasted = [f"      {row.check.limit}: {row.value}" for row in self.rows if row.pasted]
        head = ["categories:", f"  {self.category}:", "    gate:"]
        return "\n".join([*head, *pasted]) + "\n" if pasted else ""

    def to_json(self) -> dict[str, Any]:
        return {
            "category": self.category,
            "rejected": self.rejected,
            "kept": self.kept,
            "limits": [row.to_json() for row in self.rows],
            "precision": self.precision,
            "recall": self.recall,
            "manifest": self.lines,
        }


def suggest(version: Version, reviews: Reviews) -> Suggestions:
    """Limits for the gate from the decisions about a version.

    UserError with fewer than `FEWEST` rejected or kept samples, and for a version whose gate
    settings this release does not know.
    """
    known = stored_limits(version.index)
    if known is None:
        raise UserError(f"{version.dir} was made with gate settings that this release lacks")
    measured = read_accepted(version.dir / RECORDS)
    joint_N = np.array([reviews.joint.get(sample, "") for sample in measured.ids])
    chosen = np.flatnonzero((joint_N == "keep") | (joint_N == "reject"))
    kinds, names = ([some[n] for n in chosen] for some in (measured.kinds, measured.ids))
    scores = {name: some_N[chosen] for name, some_N in measured.scores.items()}
    rejected_N = joint_N[chosen] == "reject"
    rejected, kept = int(rejected_N.sum()), int((~rejected_N).sum())
    if min(rejected, kept) < FEWEST:
        raise UserError(
            f"limits need at least {FEWEST} rejected and {FEWEST} kept samples to learn from, got "
            f"{rejected} and {kept}; review more of them"
        )
    folds_N = _folds(names, rejected_N)
    found = []
    for columns in _by_check(check_scores(kinds, scores, *known)):
        badness_N = _badness(columns)
        one = _suggestion(columns[0], badness_N, rejected_N, folds_N)
        if one is not None:
            found.append((one, badness_N))
    found.sort(key=lambda pair: (-_f1(pair[0].caught, pair[0].wrongly, rejected), pair[0].value))
    return _chosen(version.category, found, rejected_N)


def _chosen(
    category: str, found: Sequence[tuple[Suggestion, np.ndarray]], rejected_N: np.ndarray
) -> Suggestions:
    """The suggestions, with those marked that are better than chance and add to the others."""
    rejected, rows = int(rejected_N.sum()), []
    caught_N = np.zeros(len(rejected_N), np.bool_)
    for one, badness_N in found:
        more_N = caught_N | (badness_N > _as_badness(one.check, one.value))
        better = _f1(*_counts(more_N, rejected_N), rejected) > _f1(
            *_counts(caught_N, rejected_N), rejected
        )
        pasted = better and one.chance * len(found) <= CHANCE
        caught_N = more_N if pasted else caught_N
        rows.append(replace(one, pasted=pasted))
    caught, wrongly = _counts(caught_N, rejected_N)
    if not caught:
        return Suggestions(category, rejected, len(rejected_N) - rejected, tuple(rows), None, None)
    return Suggestions(
        category, rejected, len(rejected_N) - rejected, tuple(rows),
        caught / (caught + wrongly), caught / rejected,
    )  # fmt: skip


def _suggestion(
    column: CheckScores, badness_N: np.ndarray, rejected_N: np.ndarray, folds_N: np.ndarray
) -> Suggestion | None:
    """The best limit of one check, None where no limit rejects more of the rejected ones."""
    # A second loads this library.
    from scipy.stats import fisher_exact

    check = column.check
    value = next(
        (limit for low, high in _cuts(badness_N, rejected_N)
         if (limit := _limit_between(check, low, high)) is not None),
        None,
    )  # fmt: skip
    if value is None:
        return None
    caught, wrongly = _counts(badness_N > _as_badness(check, value), rejected_N)
    # Each fold by the limit that the others lead to.
    tested_N = np.zeros(len(rejected_N), np.bool_)
    for fold in range(FOLDS):
        mine_N = folds_N == fold
        low, high = next(_cuts(badness_N[~mine_N], rejected_N[~mine_N]), (np.inf, np.inf))
        tested_N |= mine_N & (badness_N > (low + high) / 2)
    hits, misses = _counts(tested_N, rejected_N)
    total = int(rejected_N.sum())
    others = len(rejected_N) - total - misses
    _, chance = fisher_exact([[hits, misses], [total - hits, others]], alternative="greater")
    return Suggestion(
        check, column.limit, column.origin, value, caught, wrongly,
        caught / (caught + wrongly), caught / total, hits / max(1, hits + misses), hits / total,
        float(chance),
    )  # fmt: skip


def _cuts(badness_N: np.ndarray, rejected_N: np.ndarray) -> Iterator[tuple[float, float]]:
    """Neighbouring values between which a limit can lie, the best by F1 first.

    What is above the limit is rejected; among equals the limit that rejects fewer comes first.
    """
    measured_N = np.isfinite(badness_N)
    values, place_N = np.unique(badness_N[measured_N], return_inverse=True)
    bad_N = rejected_N[measured_N]
    # How many rejected and kept samples have each value, from the worst one down.
    bad = np.bincount(place_N[bad_N], minlength=len(values))[::-1].cumsum()[::-1]
    good = np.bincount(place_N[~bad_N], minlength=len(values))[::-1].cumsum()[::-1]
    f1 = 2 * bad / np.maximum(1, bad + good + rejected_N.sum())
    # The lowest value has none below it: a limit there would reject everything.
    for number in sorted(range(1, len(values)), key=lambda n: (-f1[n], -n)):
        if bad[number]:
            yield float(values[number - 1]), float(values[number])


def _limit_between(check: Check, low: float, high: float) -> float | None:
    """The shortest number between two values of badness that the settings accept as the limit."""
    above = check.rejected_when == "above"
    ends = (low, high) if above else (-high, -low)
    for digits in range(2, 17):
        value = float(f"{(ends[0] + ends[1]) / 2:.{digits}g}")
        # A score equal to the limit passes.
        inside = ends[0] <= value < ends[1] if above else ends[0] < value <= ends[1]
        if inside and _is_valid(check.limit, value):
            return value
    return None


def _is_valid(name: str, value: float) -> bool:
    try:
        GateSettings.model_validate({name: value})
    except ValidationError:
        return False
    return True


def _by_check(columns: Sequence[CheckScores]) -> list[list[CheckScores]]:
    """The columns of each check that has a limit in the manifest."""
    found: dict[str, list[CheckScores]] = {}
    for column in columns:
        if column.check.limit in GateSettings.model_fields:
            found.setdefault(column.check.reason, []).append(column)
    return list(found.values())


def _badness(columns: Sequence[CheckScores]) -> np.ndarray:
    """How bad each sample is by one check, (N,) float64, higher is worse; of two edits the worse
    one. NaN where the check does not apply."""
    worst_N = np.full(len(columns[0].scores_N), np.nan)
    for column in columns:
        sign = 1 if column.check.rejected_when == "above" else -1
        worst_N = np.fmax(worst_N, sign * column.comparable_N)
    return worst_N


def _as_badness(check: Check, limit: float) -> float:
    return limit if check.rejected_when == "above" else -limit


def _folds(ids: Sequence[str], rejected_N: np.ndarray) -> np.ndarray:
    """The fold of each sample, (N,) int64; rejected and kept ones are spread evenly."""
    folds_N = np.zeros(len(ids), np.int64)
    # By their hash, so that neighbours in the version do not share a fold, and always alike.
    order = sorted(range(len(ids)), key=lambda n: sha256(ids[n].encode()).digest())
    for group in (True, False):
        members = [n for n in order if rejected_N[n] == group]
        folds_N[members] = np.arange(len(members)) % FOLDS
    return folds_N


def _counts(caught_N: np.ndarray, rejected_N: np.ndarray) -> tuple[int, int]:
    """How many of the rejected and of the kept samples are caught."""
    return int((caught_N & rejected_N).sum()), int((caught_N & ~rejected_N).sum())


def _f1(caught: int, wrongly: int, rejected: int) -> float:
    return 2 * caught / max(1, caught + wrongly + rejected)
