"""The order in which looking at samples teaches most: near the gate's limits, then every kind.

A sample that passed by a hair says most about a limit. The rest is a draw in which the kinds take
turns, so that sixty decisions say something about each of them.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import chain, zip_longest
from typing import Any

import numpy as np

from pipeline.dataset.attempts import read_accepted
from pipeline.dataset.files import RECORDS
from pipeline.dataset.version import Version
from pipeline.gate.checks import stored_limits
from pipeline.review.scores import CheckScores, check_scores

# At most so many samples come first for being near a limit, and so many of one kind near one limit:
# the tenth background control with the same look teaches nothing.
NEAR_MOST, NEAR_ALIKE = 40, 8
# Near means within this many standard deviations of the score.
NEAR = 0.5


def teaching_order(version: Version) -> tuple[str, ...]:
    """The ids of all accepted samples, the most instructive first; equal for equal versions.

    First come samples near a limit of the gate, nearest first: limits and kinds take turns. Then
    the kinds take turns with the others, each in a random order that does not change.
    """
    found, known = read_accepted(version.dir / RECORDS), stored_limits(version.index)
    # Settings of another release: nothing is known about its limits.
    columns = check_scores(found.kinds, found.scores, *known) if known else []
    margins_N, checks_N = margins(columns, len(found.ids))
    by_limit: dict[tuple[str, str], list[str]] = {}
    for _, n in sorted((margins_N[n], n) for n in np.flatnonzero(margins_N < NEAR)):
        limit = (found.kinds[n], columns[checks_N[n]].check.reason)
        by_limit.setdefault(limit, []).append(found.ids[n])
    near = _in_turns({key: some[:NEAR_ALIKE] for key, some in by_limit.items()})[:NEAR_MOST]
    by_kind: dict[str, list[str]] = {}
    kinds, first = dict(zip(found.ids, found.kinds, strict=True)), set(near)
    # By their hash: a draw that neither position nor image decides, and that is the same each time.
    for sample in sorted(kinds.keys() - first, key=lambda name: sha256(name.encode()).digest()):
        by_kind.setdefault(kinds[sample], []).append(sample)
    return (*near, *_in_turns(by_kind))


def margins(columns: Sequence[CheckScores], count: int) -> tuple[np.ndarray, np.ndarray]:
    """How near each of N samples is to a limit of the gate, and to which.

    Distances, (N,) float64, are in standard deviations of the score over all samples, so that those
    of different scores compare; infinite for a sample without limits. The limits are positions in
    `columns`, (N,) int64.
    """
    nearest_N, checks_N = np.full(count, np.inf), np.zeros(count, np.int64)
    for number, column in enumerate(columns):
        spread = np.nanstd(column.scores_N)
        # Equal scores of all samples tell none of them from the others, and a lower limit of zero
        # lets everything pass.
        off = column.limit == 0 and column.check.rejected_when == "below"
        if spread > 0 and not off:
            closer_N = column.room_N / spread < nearest_N
            nearest_N[closer_N] = column.room_N[closer_N] / spread
            checks_N[closer_N] = number
    return nearest_N, checks_N


def _in_turns(groups: Mapping[Any, Sequence[str]]) -> list[str]:
    """The members of all groups such that the groups take turns as long as they have any left."""
    turns = zip_longest(*(groups[name] for name in sorted(groups)))
    return [sample for sample in chain.from_iterable(turns) if sample is not None]
