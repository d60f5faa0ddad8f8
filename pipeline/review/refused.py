"""The edits that reviewers rejected, by image, so that generating again does not make them again.

An edit is identified by what was planned (kind, objects, numbers, seed) and its image by the digest
of the file. Neither the name of the file nor the position of the sample matters, so the decisions
hold in a version with other settings, too.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.dataset.version import Version
from pipeline.edits.apply import edit_key
from pipeline.records import Edit
from pipeline.review.about import read_decisions, reviewed_version, samples_by_id
from pipeline.review.decision import Decision
from pipeline.review.log import SUFFIX, ReviewLog
from pipeline.review.state import ReviewState

# Edits by the digest of their image, each list sorted.
Refused = dict[str, list[str]]


def refused_edits(home: Path, file: Path) -> dict[str, Any]:
    """The rejected edits of a file of decisions about versions in the folder of a category.

    Returns `sha256` of the file, `versions` that were looked at, and `refused`. What those versions
    had refused before stays refused. UserError for a version that is not in the folder.
    """
    # A link that the user named is followed.
    log = ReviewLog(Path(file).resolve())
    # Without a version in it, a decision is about the version that its file is called after.
    named = log.path.name.removesuffix(SUFFIX) if log.path.name.endswith(SUFFIX) else ""
    made_on: dict[str, list[Decision]] = {}
    contents = read_decisions(log)
    for decision in contents.decisions:
        made_on.setdefault(decision.version or named, []).append(decision)
    looked_at = []
    found: list[Refused] = []
    for name, decisions in sorted(made_on.items()):
        version = reviewed_version(home, name)
        joint = ReviewState(decisions).joint
        looked_at.append(version)
        found.append(
            refused_by(version, (s for s, verdict in joint.items() if verdict == "reject"))
        )
    return {
        "sha256": contents.sha256,
        "versions": sorted(made_on),
        "refused": with_refused(looked_at, *found),
    }


def refused_by(version: Version, samples: Iterable[str]) -> Refused:
    """The edits of these samples of a version; samples that it does not hold are left out."""
    places, found = samples_by_id(version), dict[str, set[str]]()
    for sample in samples:
        if sample in places:
            shard, row = places[sample]
            record = version.shards[shard].record(row)
            key = edit_key(Edit.from_json(record["edit"]))
            found.setdefault(record["source"]["digest"], set()).add(key)
    return {digest: sorted(keys) for digest, keys in sorted(found.items())}


def with_refused(versions: Iterable[Version], *more: Mapping[str, Iterable[str]]) -> Refused:
    """Refused edits together with those that were refused when these versions were made."""
    every = [version.index.get("reviews", {}).get("refused", {}) for version in versions]
    found: dict[str, set[str]] = {}
    for some in (*every, *more):
        for digest, keys in some.items():
            found.setdefault(digest, set()).update(keys)
    return {digest: sorted(keys) for digest, keys in sorted(found.items())}
