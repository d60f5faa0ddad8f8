"""Which detector to take, by a rule that looks at held-out synthetic anomalies only.

The highest macro AUROC (mean over kinds) wins. Detectors within `EQUAL` of it count as equal, and
among them the highest mean share found at the allowed false-alarm rate wins, then the clearly
lowest time per image (`FASTER`), then the shortest training.

Why AUROC and not the share found, which is what a factory wants: the share depends on the highest
few of N normals, the AUROC on all of them. In a simulation (five detectors, six kinds, normals with
Gaussian and with heavy tails) the choice by AUROC had the higher *true share* as well, for every N
from 2 to 200: with 20 normals it lost 0.025 to 0.036 of the best detector's share, the choice by
share 0.040 to 0.051. On real test splits, AUROC on held-out synthetic anomalies ranks detectors as
their real AUROC does (docs/results.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from detectors.metrics.bootstrap import Interval

# AUROCs closer than this are not worth a slower detector, or one that finds less.
EQUAL = 0.01
# Times per image within this factor are no reason: they are measured anew by each comparison, and
# the same trainings must not get another recommendation because the machine was busy.
FASTER = 1.5
RULE = (
    "The highest image AUROC, as the mean over the kinds of synthetic anomalies, wins. Detectors "
    f"within {EQUAL} of it count as equal: of these the one that finds most at the allowed "
    "false-alarm rate wins (mean over the kinds), then the clearly fastest."
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """The numbers of one detector that the choice depends on."""

    name: str
    auroc: float
    auroc_interval: Interval | None
    share: float
    seconds_per_image: float
    training_seconds: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The detector to take.

    `equal` are others within `EQUAL` of the best AUROC, `uncertain` those whose interval reaches
    the chosen one's AUROC; both in falling order of AUROC. `decided_by` is the criterion that was
    needed: `auroc`, `share`, `cost` or `only` for a single candidate.
    """

    name: str
    decided_by: str
    equal: tuple[str, ...]
    uncertain: tuple[str, ...]


def recommend(candidates: Sequence[Candidate]) -> Recommendation:
    """Choose among at least one candidate; ValueError without any."""
    if not candidates:
        raise ValueError("there is no detector to choose from")
    # Stable: of equal candidates in every number, the first one.
    ranked = sorted(candidates, key=lambda one: -one.auroc)
    equal = [one for one in ranked if ranked[0].auroc - one.auroc <= EQUAL]
    share = max(one.share for one in equal)
    lowest = min(one.seconds_per_image for one in equal if one.share == share)
    fast = [one for one in equal
            if one.share == share and one.seconds_per_image <= FASTER * lowest]  # fmt: skip
    best = min(fast, key=lambda one: one.training_seconds)
    others = [one for one in ranked if one is not best]
    decided_by = "auroc"
    if len(candidates) == 1:
        decided_by = "only"
    elif len(equal) > 1:
        same = [one for one in equal if one.share == best.share]
        decided_by = "share" if len(same) == 1 else "cost"
    return Recommendation(
        name=best.name,
        decided_by=decided_by,
        equal=tuple(one.name for one in equal if one is not best),
        uncertain=tuple(
            one.name
            for one in others
            if one.auroc_interval is not None and one.auroc_interval[1] >= best.auroc
        ),
    )
