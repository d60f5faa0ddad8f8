"""The sensitivity of one detector: what it finds of each kind and rule at a false-alarm rate.

The threshold comes from held-out normals alone (`detectors.training.calibration`). N of them can
promise no false-alarm rate below 1 / (N + 1), and no page claims less.

Shapes: N held-out normals; M held-out samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detectors.comparison.held_out import HeldOutScores
from detectors.comparison.intervals import auroc_by_kind, macro_auroc_interval
from detectors.metrics.bootstrap import Interval
from detectors.metrics.wilson import wilson
from detectors.training.calibration import false_alarm_threshold, rate_interval
from pipeline.kinds import CONTROLS, EDIT_KINDS, kind_of
from pipeline.rulebook.book import ORDER, UNKNOWN

# What breaking a rule of a part looks like, by the rule's name behind the dot.
_BROKEN = {
    "count": "wrong number of {}", "place": "{} in a wrong place", "size": "{} of a wrong size",
    "colour": "{} of a wrong colour", "turn": "{} turned the wrong way",
}  # fmt: skip
_WHOLE = {ORDER: "parts in a wrong order", UNKNOWN: "a part that no rule knows"}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the matrix: a kind of edit, a broken rule or a kind of control, in words.

    `samples` are the places of its samples in `HeldOutScores`.
    """

    key: str
    group: Literal["kind", "rule", "control"]
    words: str
    samples: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """`found` of `of` images reach the threshold; `interval` is Wilson's, 95 %."""

    found: int
    of: int

    @property
    def share(self) -> float:
        return self.found / self.of if self.of else 0.0

    @property
    def interval(self) -> Interval:
        return wilson(self.found, self.of)

    def to_json(self) -> dict[str, Any]:
        return {
            "found": self.found, "of": self.of, "share": self.share,
            "interval": list(self.interval),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What one detector finds at its threshold, and how well it ranks.

    A fresh normal reaches `threshold` with probability `promised`, on average over draws of the
    held-out normals; `alarms` are those of the held-out normals themselves. `cells` has a share per
    row key. `auroc` is the mean over kinds of the image AUROC, `share` that of the shares found.
    """

    threshold: float
    promised: float
    alarms: Share
    cells: Mapping[str, Share]
    auroc_by_kind: Mapping[str, float]
    auroc: float
    auroc_interval: Interval | None
    share: float

    @property
    def promised_interval(self) -> Interval:
        """Where the false-alarm rate of this one threshold lies in 95 % of such draws."""
        return rate_interval(self.alarms.of, self.promised)

    def to_json(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "held_out_alarms": self.alarms.to_json(),
            "promised_false_alarms": self.promised,
            "promised_interval": list(self.promised_interval),
            "auroc": self.auroc,
            "auroc_interval": self.auroc_interval and list(self.auroc_interval),
            "auroc_by_kind": dict(self.auroc_by_kind),
            "share_found": self.share,
            "cells": {key: cell.to_json() for key, cell in self.cells.items()},
        }


def rows_of(held: HeldOutScores) -> tuple[Row, ...]:
    """The rows of the matrix: kinds in the order of their table, rules by name, then controls."""
    members: dict[tuple[str, str, str], list[int]] = {}
    for place, (kind, rules) in enumerate(zip(held.kinds, held.rules, strict=True)):
        group = "kind" if held.labels_M[place] else "control"
        members.setdefault((group, kind, kind_of(kind).summary), []).append(place)
        for rule in rules:
            words = rule_words(rule, kind)
            # "Too many" and "too few" break one rule, and are two questions.
            members.setdefault(("rule", f"{rule}: {words}", words), []).append(place)
    order = {"kind": 0, "rule": 1, "control": 2}
    kinds = (*EDIT_KINDS, *CONTROLS)
    sort = sorted(
        members,
        key=lambda k: (order[k[0]], kinds.index(k[1]) if k[1] in kinds else 0, k[1]),
    )
    return tuple(
        Row(key, group, words, tuple(members[group, key, words]))  # type: ignore[arg-type]
        for group, key, words in sort
    )


def rule_words(rule: str, kind: str) -> str:
    """A broken rule in words: `bolt.count` of a missing bolt is "too few bolt"."""
    part, dot, what = rule.rpartition(".")
    if not dot or what not in _BROKEN:
        return _WHOLE.get(rule, f"{rule.replace('_', ' ')} broken")
    name = part.replace("_", " ")
    if what == "count":
        if kind_of(kind).adds:
            return f"too many: {name}"
        if kind == "missing":
            return f"too few: {name}"
    return _BROKEN[what].format(name)


def sensitivity(held: HeldOutScores, rows: Sequence[Row], false_alarms: float) -> Sensitivity:
    """Judge a detector by its held-out scores at the false-alarm rate (0 to 1) that is allowed."""
    threshold, promised = false_alarm_threshold(held.normal_scores_N, false_alarms)
    # In float32, in which the threshold was computed and detectors score.
    over_M = held.sample_scores_M.astype(np.float32) >= np.float32(threshold)
    over_N = held.normal_scores_N.astype(np.float32) >= np.float32(threshold)
    cells = {row.key: Share(int(over_M[list(row.samples)].sum()), len(row.samples)) for row in rows}
    kinds = [row for row in rows if row.group == "kind"]
    scores = {row.key: held.sample_scores_M[list(row.samples)] for row in kinds}
    by_kind = auroc_by_kind(held.normal_scores_N, scores)
    return Sensitivity(
        threshold=threshold,
        promised=promised,
        alarms=Share(int(over_N.sum()), len(over_N)),
        cells=cells,
        auroc_by_kind=by_kind,
        # Every kind counts once, however many samples the gate accepted of it.
        auroc=float(np.mean(list(by_kind.values()))),
        auroc_interval=macro_auroc_interval(held.normal_scores_N, scores),
        share=float(np.mean([cells[row.key].share for row in kinds])),
    )


def smallest_rate(normals: int) -> float:
    """The smallest false-alarm rate that so many held-out normals can promise."""
    return 1 / (normals + 1)
