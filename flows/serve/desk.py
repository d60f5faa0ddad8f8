"""The reviews of one version while the server runs: its log, what it adds up to, and the order.

Other servers and the command line write to the same log, so every request reads on from where the
last one stopped.

Shapes: N accepted samples.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any

from flows.serve.opened import Opened, OpenVersions
from flows.serve.table import Table
from pipeline.dataset.version import Version, version_folders
from pipeline.errors import AnomalysmithError, UserError
from pipeline.review.about import reviews_of
from pipeline.review.decision import Decision
from pipeline.review.log import review_log
from pipeline.review.order import teaching_order
from pipeline.review.state import JOINTS, ReviewState

# What a reviewer may go through: what is new to them, what they were unsure about, what the
# reviewers do not agree on, or everything.
SHOWS = ("new", "unsure", "disputed", "all")


@dataclass(frozen=True, slots=True)
class Place:
    """A sample in the order of review: its position there, and its row in the version's table."""

    position: int
    sample: str
    row: int


class Desk:
    """Decisions on one open version. Safe for several threads."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        table = opened.table
        # The accepted samples come first in a table.
        rows = {table.id(row): row for row in range(table.accepted)}
        order = teaching_order(opened.version)
        self.places_N = tuple(Place(k, sample, rows[sample]) for k, sample in enumerate(order))
        self._of = {place.sample: place for place in self.places_N}
        self._log = review_log(opened.version.dir)
        self._earlier = _decided_elsewhere(opened.version)
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._state, self._offset = ReviewState(self._earlier), 0

    def _read(self) -> ReviewState:
        """The state with what was appended since; under the lock."""
        try:
            fresh, self._offset = self._log.read_since(self._offset)
        except UserError:
            # Somebody has replaced the file: begin again.
            self._forget()
            fresh, self._offset = self._log.read_since(0)
        self._state.add(fresh)
        return self._state

    def has(self, sample: str) -> bool:
        """Whether the version has this sample; a log may hold others, of files that were joined."""
        return sample in self._of

    def place(self, sample: str) -> Place:
        """The place of a sample; UserError when the version has no such accepted sample."""
        if sample not in self._of:
            raise UserError(f"expected a sample of {self.opened.version.name}, got {sample[:80]!r}")
        return self._of[sample]

    def decide(self, decisions: Sequence[Decision]) -> None:
        """Append decisions; they are on the disk when this returns. One sent twice counts once."""
        for decision in decisions:
            self.place(decision.sample)
        with self._lock:
            state = self._read()
            fresh = [d for d in decisions if state.decisions_on(d.sample).get(d.reviewer) != d]
            self._log.append(fresh)
            self._read()

    def mine(self, reviewer: str) -> dict[str, Decision]:
        """What stands of one reviewer, by sample, oldest first."""
        with self._lock:
            return self._read().verdicts_of(reviewer)

    def joint(self) -> Mapping[str, str]:
        """The joint verdict of every reviewed sample of the version."""
        with self._lock:
            return {s: v for s, v in self._read().joint.items() if s in self._of}

    def everything(self) -> tuple[ReviewState, int]:
        """A state of its own for a page that looks at everything, and the lines of the log that
        hold no decision."""
        contents = self._log.contents()
        return ReviewState((*self._earlier, *contents.decisions)), contents.unreadable

    def has_log(self) -> bool:
        """Whether a decision was made on this version, and not on others alone."""
        return self._log.path.is_file()

    def queue(self, reviewer: str, show: str, kind: str, after: int) -> Iterator[Place]:
        """The samples behind a position that a reviewer is to look at, in order."""
        mine, joint = self.mine(reviewer), self.joint()
        table = self.opened.table
        for place in self.places_N[max(0, after + 1) :]:
            if kind and table.kind[place.row] != kind:
                continue
            own = mine.get(place.sample)
            if (
                show == "all"
                or (show == "new" and own is None)
                or (show == "unsure" and own is not None and own.verdict == "unsure")
                or (show == "disputed" and joint.get(place.sample) == "disputed")
            ):
                yield place

    def totals(self, reviewer: str) -> dict[str, Any]:
        """How far the review is: samples, those that the reviewer has decided, joint verdicts."""
        mine = self.mine(reviewer)
        with self._lock:
            found = Counter(v for s, v in self._read().joint.items() if s in self._of)
        return {
            "samples": len(self.places_N),
            "mine": sum(sample in self._of for sample in mine),
            "joint": {verdict: found[verdict] for verdict in JOINTS},
        }


def _decided_elsewhere(version: Version) -> tuple[Decision, ...]:
    """Decisions on the same samples in other versions of the product: nobody decides twice."""
    found: list[Decision] = []
    for folder in version_folders(version.dir.parent):
        log = review_log(folder)
        if folder.name == version.name or not log.path.is_file():
            continue
        try:
            found += reviews_of(version, log.path).decisions
        except AnomalysmithError:
            # None is shared, one of the versions is damaged or gone, or the file is a link.
            continue
    return tuple(found)


class Desks:
    """The desk of every version that is open."""

    def __init__(self, opened: OpenVersions) -> None:
        self._opened = opened
        self._desks: dict[tuple[str, str], Desk] = {}
        self._lock = Lock()

    def table(self, opened: Opened) -> Table:
        """The version's table with what reviewers say; the plain one while there is no review."""
        path = review_log(opened.version.dir).path
        # A link is not followed; the page of the review says so.
        if not path.is_file() or path.is_symlink():
            return opened.table
        desk = self.get(*opened.address)
        said = {desk.place(sample).row: joint for sample, joint in desk.joint().items()}
        return opened.table.reviewed(said)

    def get(self, category: str, name: str) -> Desk:
        """The desk of a version; 404 when there is none."""
        opened = self._opened.get(category, name)
        with self._lock:
            desk = self._desks.get(opened.address)
            # Another one where the version was deleted and generated again, or closed meanwhile.
            if desk is None or desk.opened is not opened:
                desk = self._desks[opened.address] = Desk(opened)
            return desk
