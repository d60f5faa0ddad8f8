"""The decisions in a file that are about the samples of one version, also those made on another.

A person who has reviewed one version need not review the same samples again in the version that was
curated or generated after it. A decision about another version counts where both hold the sample
under its id with the same record: the same source, edit, seed and scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.dataset.attempts import read_accepted
from pipeline.dataset.files import RECORDS
from pipeline.dataset.index_schema import VERSION_NAME
from pipeline.dataset.version import Version, open_version
from pipeline.errors import UserError
from pipeline.review.decision import Decision
from pipeline.review.log import Contents, ReviewLog
from pipeline.review.state import JOINTS, Joint, ReviewState

# Shard and row of a sample, as `Version.shards` counts them.
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Reviews:
    """What reviewers say about the samples of one version: `decisions`, and their `state`.

    `joint` is by sample id, in the order of the version, and `places` says where each of these
    samples is stored. `sha256` is that of the file, `versions` are those that were looked at.
    `elsewhere` counts decisions on samples that this version does not hold, `unreadable` lines of
    the file that hold no decision.
    """

    sha256: str
    decisions: tuple[Decision, ...]
    state: ReviewState
    joint: Mapping[str, Joint]
    places: Mapping[str, Place]
    versions: tuple[str, ...]
    elsewhere: int
    unreadable: int

    def samples(self, *joint: Joint) -> tuple[str, ...]:
        """The ids of the samples with one of these joint verdicts, in the order of the version."""
        return tuple(sample for sample, found in self.joint.items() if found in joint)

    def to_json(self) -> dict[str, Any]:
        """Counts and digest, as an index and a checkpoint record them."""
        found: dict[str, Any] = {
            "sha256": self.sha256,
            "versions": list(self.versions),
            "reviewers": len(self.state.reviewers),
            "reviewed": len(self.joint),
        }
        return found | {joint: len(self.samples(joint)) for joint in JOINTS}


def reviews_of(version: Version, path: Path) -> Reviews:
    """The decisions of a file about the accepted samples of a version.

    UserError when there is no such file, when none of its decisions is about this version, or when
    a version that was looked at is neither this one nor beside it.
    """
    # A link that the user named is followed.
    log = ReviewLog(Path(path).resolve())
    contents = read_decisions(log)
    decisions = contents.decisions
    known = samples_by_id(version)
    made_on: dict[str, list[Decision]] = {}
    for decision in decisions:
        made_on.setdefault(decision.version or version.name, []).append(decision)
    # By the version that was looked at, since another one has to be opened to be compared with.
    holds = {
        name: _shared(version, known, name, {decision.sample for decision in some})
        for name, some in made_on.items()
    }
    mine = [d for d in decisions if d.sample in holds[d.version or version.name]]
    if not mine:
        raise UserError(
            f"{path} holds {len(decisions)} decisions, none about a sample of {version.dir}; name "
            "the file that was written while this version, or one with the same samples, was "
            "reviewed"
        )
    state = ReviewState(mine)
    return Reviews(
        sha256=contents.sha256,
        decisions=tuple(mine),
        state=state,
        joint={sample: state.joint[sample] for sample in known if sample in state.joint},
        places={sample: known[sample] for sample in state.joint},
        versions=tuple(sorted(made_on)),
        elsewhere=len(decisions) - len(mine),
        unreadable=contents.unreadable,
    )


def read_decisions(log: ReviewLog) -> Contents:
    """What a file that a user named holds; UserError when there is no decision in it."""
    if not log.path.is_file():
        raise UserError(
            f"there is no file of decisions {log.path}; review the version first "
            "(`anomalysmith serve STORE`)"
        )
    contents = log.contents()
    if not contents.decisions:
        raise UserError(f"{log.path} holds no decision; review the version first")
    return contents


def samples_by_id(version: Version) -> dict[str, Place]:
    """Where every accepted sample is stored, by its id, in the order of the version."""
    number = {shard.path.name: number for number, shard in enumerate(version.shards)}
    found = read_accepted(version.dir / RECORDS)
    places = zip(found.ids, found.shards, found.rows, strict=True)
    return {sample: (number[shard], row) for sample, shard, row in places}


def reviewed_version(home: Path, name: str) -> Version:
    """The version of that name in the folder of a category; UserError when it is not there."""
    # The name comes from a file that anyone may have written: it must not lead elsewhere.
    if not VERSION_NAME.fullmatch(name):
        raise UserError(f"expected the name of a version in a decision, got {name[:60]!r}")
    if not (home / name).is_dir():
        raise UserError(
            f"there are decisions about version {name}, which is not in {home}; put it there, or "
            "leave these decisions out of the file"
        )
    return open_version(home / name)


def _shared(version: Version, known: Mapping[str, Place], name: str, wanted: set[str]) -> set[str]:
    """Those of the wanted samples that a version of that name has in common with this one."""
    mine = wanted & known.keys()
    if name == version.name:
        return mine
    other = reviewed_version(version.dir.resolve().parent, name)
    theirs = samples_by_id(other)
    return {
        sample
        for sample in mine & theirs.keys()
        if _record(version, known[sample]) == _record(other, theirs[sample])
    }


def _record(version: Version, place: Place) -> dict[str, Any]:
    shard, row = place
    return version.shards[shard].record(row)
