"""How far reviewers agree on the samples that both have reviewed."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from pipeline.review.decision import VERDICTS
from pipeline.review.state import ReviewState


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two reviewers, the number of samples that both decided, and how often they said the same.

    `share` is that of equal verdicts. `kappa` is Cohen's: 1 is perfect, 0 what chance gives;
    None where it has no value, because both gave one and the same verdict to all.
    """

    one: str
    other: str
    samples: int
    share: float
    kappa: float | None


def agreements(state: ReviewState) -> tuple[Agreement, ...]:
    """The agreement of every pair of reviewers with samples in common, by name."""
    verdicts = {name: state.verdicts_of(name) for name in state.reviewers}
    found = []
    for one, other in combinations(state.reviewers, 2):
        common = sorted(verdicts[one].keys() & verdicts[other].keys())
        if common:
            pairs = [(verdicts[one][s].verdict, verdicts[other][s].verdict) for s in common]
            share = sum(a == b for a, b in pairs) / len(pairs)
            found.append(Agreement(one, other, len(pairs), share, _kappa(share, pairs)))
    return tuple(found)


def _kappa(share: float, pairs: Sequence[tuple[str | None, str | None]]) -> float | None:
    """(observed - expected) / (1 - expected), where chance alone would give `expected`."""
    mine, theirs = map(Counter, zip(*pairs, strict=True))
    expected = sum(mine[verdict] * theirs[verdict] for verdict in VERDICTS) / len(pairs) ** 2
    return None if expected == 1 else (share - expected) / (1 - expected)
