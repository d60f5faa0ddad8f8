"""Are the reasons of `parts` right? On composed scenes, whose true rule is known.

A drafted book calls its kinds part_1, part_2, ...; which true kind each is follows from the counts
that it reports in all defective scenes. A reason is right when its rule is the true one: the count
of a kind that has one too few or too many, or for exchanged parts a place or the order.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.real_detectors.contents import good
from detectors.evaluation.predict import Prediction, predict

# Rules that name an exchange.
PLACES = ("place", "where", "order")


@dataclass(frozen=True, slots=True)
class Rates:
    """Of `defects` logical defects `found` raise an alarm, `right` of these with the true rule.

    `first` of them name it first; `false_alarms` of `good` good images raise an alarm.
    """

    defects: int
    found: int
    right: int
    first: int
    good: int
    false_alarms: int

    def __str__(self) -> str:
        return (
            f"{self.found} of {self.defects} defects found, {self.right} with the right reason "
            f"({self.first} first); {self.false_alarms} false alarms of {self.good}"
        )


def measure(checkpoint: Path, data: Path, threshold: str = "threshold_5") -> Rates:
    """Score the test images of a composed set and compare the reasons with `contents.json`."""
    facts = json.loads((data / "contents.json").read_text())
    usual = Counter(item.kind for item in good(facts["arrangement"]).items)
    found = predict(checkpoint, [data / "test"], threshold=threshold, precision="fp32").images
    by_name = {Path(one.path).relative_to(data).as_posix(): one for one in found}
    images = facts["images"]
    bad = {name: one for name, one in by_name.items() if "logical" in name}
    kinds = named_kinds(
        [(_counts(one), Counter(item["kind"] for item in images[name]["items"]))
         for name, one in bad.items()], usual,
    )  # fmt: skip
    alarms = {name: one for name, one in bad.items() if one.verdict == "anomalous"}
    ranks = [_rank(one, images[name], usual, kinds) for name, one in alarms.items()]
    fine = [one for name, one in by_name.items() if name.startswith("test/good")]
    return Rates(
        len(bad), len(alarms), sum(rank is not None for rank in ranks), ranks.count(0),
        len(fine), sum(one.verdict == "anomalous" for one in fine),
    )  # fmt: skip


def named_kinds(
    pairs: Sequence[tuple[Mapping[str, int], Mapping[str, int]]], usual: Mapping[str, int]
) -> dict[str, str]:
    """The true kind of each drafted part: that whose true count its reported count equals most."""
    votes: dict[str, Counter[str]] = {}
    for reported, true in pairs:
        for part, count in reported.items():
            agree = [k for k, n in usual.items() if true.get(k, 0) == count != n]
            votes.setdefault(part, Counter()).update(agree)
    return {part: count.most_common(1)[0][0] for part, count in votes.items() if count}


def _counts(one: Prediction) -> dict[str, int]:
    return {
        reason["rule"].rpartition(".")[0]: int(reason["found"])
        for reason in one.reasons
        if reason["rule"].endswith(".count")
    }


def _rank(
    one: Prediction, truth: Mapping[str, Any], usual: Mapping[str, int], kinds: Mapping[str, str]
) -> int | None:
    """The place of the first right reason in the list, None without one."""
    true = Counter(item["kind"] for item in truth["items"])
    changed = {kind for kind, count in usual.items() if true[kind] != count}
    for place, reason in enumerate(one.reasons):
        part, _, rule = reason["rule"].rpartition(".")
        if rule == "count" and kinds.get(part) in changed:
            return place
        if truth["defect"] == "exchanged" and rule in PLACES:
            return place
    return None
