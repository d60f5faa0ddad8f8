"""The gate's scores of many samples as columns, one per check, beside the limit of each sample.

They come from the table of attempts alone: reading the records of 100 000 samples takes too long
for a page. What only a record says (a prompt, an edit of the whole product) shows in an accepted
sample by a score beyond the limit: the check does not apply to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.gate.checks import CHECKS, SOURCE_MARGIN, Check, Origin, limit_of
from pipeline.gate.limits import Limits
from pipeline.gate.settings import GateSettings
from pipeline.kinds import is_control, kind_of

# What the names of the scores of a combined sample's edits end in.
_PARTS = ("", "_2")


@dataclass(frozen=True, slots=True, eq=False)
class CheckScores:
    """One check over N samples.

    `scores_N` (float64) is NaN where the check does not apply. `limit` is the limit of the
    settings, None for an inactive check, and `limits_N` what it is for each sample. A limit of the
    manifest rejects what `comparable_N` has beyond it.
    """

    check: Check
    limit: float | None
    origin: Origin
    scores_N: np.ndarray
    limits_N: np.ndarray
    comparable_N: np.ndarray

    @property
    def room_N(self) -> np.ndarray:
        """How far each score is on the passing side of its limit, in the unit of the score."""
        above = self.check.rejected_when == "above"
        return self.limits_N - self.scores_N if above else self.scores_N - self.limits_N


def check_scores(
    kinds: Sequence[str],
    scores: Mapping[str, np.ndarray],
    settings: GateSettings,
    limits: Limits,
) -> list[CheckScores]:
    """The checks that any of N accepted samples was measured for.

    `kinds` are their kinds, `scores` the scores by name, (N,) float64, NaN where there is none. A
    combined sample has two edits, so most checks come twice where there is one.
    """

    def column(name: str) -> np.ndarray:
        found = scores.get(name)
        return np.full(len(kinds), np.nan) if found is None else found.copy()

    control_N = np.array([is_control(kind) for kind in kinds], np.bool_)
    composite_N = np.array([kind_of(kind).composite for kind in kinds], np.bool_)
    resamples_N = np.array([kind_of(kind).resamples for kind in kinds], np.bool_)
    found = []
    for check in CHECKS:
        limit, origin = limit_of(check.limit, settings, limits)
        # Any changed pixel passes it.
        if check.reason == "empty":
            continue
        for part in _PARTS if composite_N.any() else _PARTS[:1]:
            scores_N = column(check.score + part)
            if check.applies_to != "all":
                scores_N[control_N != (check.applies_to == "controls")] = np.nan
            # The kinds of a combined sample's edits are unknown here; they decided what was
            # measured.
            if check.kinds:
                named_N = np.array([kind in check.kinds for kind in kinds], np.bool_)
                scores_N[~(named_N | composite_N)] = np.nan
            if check.inpainted_only:
                scores_N[~(column("painted" + part) > 0)] = np.nan
            limits_N = np.full(len(kinds), np.nan if limit is None else limit)
            # As `checks.findings` adapts them to a sample.
            halved_N = resamples_N & (check.reason == "unchanged")
            limits_N[halved_N] /= 2
            if check.inpainted_only and origin == "calibrated":
                before_N = column("patch_before" + part)
                limits_N = np.fmax(limits_N, SOURCE_MARGIN * before_N)
            above = check.rejected_when == "above"
            scores_N[(scores_N > limits_N) if above else (scores_N < limits_N)] = np.nan
            comparable_N = np.where(halved_N, 2 * scores_N, scores_N)
            if np.isfinite(scores_N).any():
                found.append(CheckScores(check, limit, origin, scores_N, limits_N, comparable_N))
    return found
