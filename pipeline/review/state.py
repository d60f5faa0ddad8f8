"""What the decisions of a version add up to: per reviewer, per sample, and over all of it.

Of a reviewer's decisions on a sample the latest one counts that was not withdrawn. Several
reviewers combine like this: one verdict for all is that verdict; a rejection beside a doubt is a
rejection; a doubt beside a keep is a doubt; a rejection beside a keep is `disputed`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from pipeline.review.decision import Decision

# What the reviewers of a sample say together.
Joint = Literal["keep", "reject", "unsure", "disputed"]
JOINTS: tuple[Joint, ...] = get_args(Joint)


class ReviewState:
    """The decisions that stand, kept up to date by `add`. Not safe for several threads.

    Adding a decision twice changes nothing, so files of decisions may be joined and read again.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        # Standing decisions by sample and reviewer, in the order in which they were made.
        self._made: dict[str, dict[str, list[Decision]]] = {}
        # The same decisions by reviewer, by sample and time; the keys of what was withdrawn.
        self._latest: dict[str, dict[tuple[str, str], Decision]] = {}
        self._withdrawn: set[tuple[str, str, str]] = set()
        self._joint: dict[str, Joint] = {}
        self.add(decisions)

    def add(self, decisions: Iterable[Decision]) -> None:
        """Take in decisions in the order of their file."""
        for decision in decisions:
            sample, reviewer = decision.sample, decision.reviewer
            made = self._made.setdefault(sample, {}).setdefault(reviewer, [])
            latest = self._latest.setdefault(reviewer, {})
            if decision.verdict is None:
                # Remembered, for the decision itself may come later where files were joined.
                self._withdrawn.add((sample, reviewer, decision.withdraws))
                if gone := latest.pop((sample, decision.withdraws), None):
                    made.remove(gone)
            elif (sample, decision.at) not in latest and (
                (sample, reviewer, decision.at) not in self._withdrawn
            ):
                latest[sample, decision.at] = decision
                made.append(decision)
            self._combine(sample)

    def decisions_on(self, sample: str) -> dict[str, Decision]:
        """The decision of each reviewer that stands on a sample, by reviewer."""
        made = self._made.get(sample, {})
        return {reviewer: some[-1] for reviewer, some in made.items() if some}

    def verdict_of(self, sample: str, reviewer: str) -> Decision | None:
        """The decision of one reviewer that stands on a sample."""
        some = self._made.get(sample, {}).get(reviewer)
        return some[-1] if some else None

    @property
    def joint(self) -> Mapping[str, Joint]:
        """What the reviewers say together, by sample; without the samples nobody has reviewed."""
        return self._joint

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Everyone with a decision that stands, by name."""
        return tuple(sorted(reviewer for reviewer, some in self._latest.items() if some))

    def counts(self) -> dict[Joint, int]:
        """How many samples have each joint verdict, in the order of `JOINTS`."""
        found = Counter(self._joint.values())
        return {joint: found[joint] for joint in JOINTS}

    def verdicts_of(self, reviewer: str) -> dict[str, Decision]:
        """The decisions of one reviewer that stand, by sample, in the order of the first ones."""
        # A later decision on a sample takes the place of the earlier one.
        return {sample: decision for (sample, _), decision in self._latest_of(reviewer).items()}

    def undo(self, reviewer: str, at: str) -> tuple[Decision, ...]:
        """The decisions that take back the reviewer's last ones, to be appended and added.

        Decisions with the same time were made at once and are taken back at once. What stood
        before them stands again; calling it again goes one step further back. Empty when nothing
        is left.
        """
        standing = list(self._latest_of(reviewer).values())
        last = [one for one in reversed(standing) if one.at == standing[-1].at]
        return tuple(
            Decision(one.sample, None, "", "", reviewer, at, one.version, withdraws=one.at)
            for one in reversed(last)
        )

    def _latest_of(self, reviewer: str) -> dict[tuple[str, str], Decision]:
        return self._latest.get(reviewer, {})

    def _combine(self, sample: str) -> None:
        """Compute the joint verdict of a sample again."""
        verdicts = {decision.verdict for decision in self.decisions_on(sample).values()}
        joint = combined(verdicts)
        if joint is None:
            self._joint.pop(sample, None)
        else:
            self._joint[sample] = joint


def combined(verdicts: Iterable[str | None]) -> Joint | None:
    """The joint verdict of several reviewers, by the rule at the top; None without any."""
    said = set(verdicts)
    if "reject" in said:
        return "disputed" if "keep" in said else "reject"
    if "unsure" in said:
        return "unsure"
    return "keep" if "keep" in said else None
