"""`diff A B`: compare two versions of one category, image by image.

Identity of samples: the seed of a sample depends on the digest of its source file, its number there
and the attempt. The attempt, and the kind with it, changes whenever the gate rejects, so neither
identifies a sample across versions. A sample is identified by **source digest, number and label**,
and the accepted one of version A is compared with the accepted one of version B. (The label is
needed because controls are numbered after the anomalies: with one anomaly less per image, the
number of an anomaly becomes that of a control.)

Gate decisions are compared attempt by attempt, and only where both versions attempted the same kind
with the same seed; otherwise the verdicts are about different edits. A renamed file keeps its
digest and therefore its samples; a file that was replaced under its name is another image.

Equal shards (their content digests are in the index) are not opened. In all others records are
compared first and arrays after, with one sample of each version in memory.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset.shard_reader import ShardReader, TestShardReader
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.kinds import is_control
from pipeline.reports.diff.changes import Diff, GateChange, ImageChange, Pair, Place, SampleChange

# Fields of the index that say how a version was generated.
MAKING = (
    "settings", "weights", "software", "code_version", "licence", "defects_config", "profile",
)  # fmt: skip
# Arrays of a normal image, besides its proposals, by the name of the change.
_IMAGE_ARRAYS = {"pixels": ShardReader.original, "foreground": ShardReader.foreground}
# Number and label: they identify a sample inside its image.
_Key = tuple[int, int]
# Not counted as metadata: the id follows from name, number and attempt, and the split is a way of
# change of its own.
_DERIVED = ("id", "source.split")


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """One source image of a version with its samples and its rows of the table of attempts.

    `content` is the content digest of its shard, `row` its row there, `samples` their rows.
    """

    shard: ShardReader
    content: str
    row: int
    record: dict[str, Any]
    samples: tuple[int, ...]
    attempts: tuple[dict[str, Any], ...]

    @property
    def name(self) -> str:
        return self.record["name"]

    def places(self) -> dict[_Key, Place]:
        """The accepted samples by number and label."""
        found = [Place(self.shard, j, self.shard.record(j)) for j in self.samples]
        return {(place.record["number"], place.record["label"]): place for place in found}

    def rejected(self, key: _Key) -> dict[str, int]:
        """Rejection reasons of the attempts at one sample, counted."""
        tried = [row for row in self.attempts if (row["number"], _label(row["kind"])) == key]
        return dict(Counter(row["reason"] for row in tried if not row["accepted"]))


_Two = tuple[_Image | None, _Image | None]


def diff(before: Version, after: Version) -> Diff:
    """Everything that differs between two versions of one category at one image size."""
    _expect_comparable(before, after)
    # Images of both versions in pairs; None where one has no partner.
    found = _Findings()
    for first, second in _paired(_images(before), _images(after)):
        found.image(first, second)
    return Diff(
        before,
        after,
        tuple(found.samples),
        tuple(found.gate),
        tuple(found.images),
        test=_test_changes(before, after),
        failures=_name_changes(*(_failed(version) for version in (before, after))),
        making=_pairs(*({name: v.index.get(name) for name in MAKING} for v in (before, after))),
        same=found.same,
        attempts=found.attempts,
    )


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names; lists stay whole."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    return {
        name: plain
        for key, below in value.items()
        for name, plain in flat(below, f"{prefix}.{key}" if prefix else key).items()
    }


class _Findings:
    """What the comparison has found so far."""

    def __init__(self) -> None:
        self.samples: list[SampleChange] = []
        self.gate: list[GateChange] = []
        self.images: list[ImageChange] = []
        self.same: Counter[str] = Counter()
        self.attempts = dict.fromkeys(("only_before", "only_after", "other_edit", "remeasured"), 0)

    def image(self, first: _Image | None, second: _Image | None) -> None:
        """Compare one image, its samples and its attempts."""
        self._attempts(first, second)
        # The same row of a shard with the same content: everything is equal, nothing is opened.
        if first and second and first.content == second.content and first.row == second.row:
            self.same.update(first.shard.kind(j) for j in first.samples)
            return
        # The image itself: pixels, foreground, proposals, name, split.
        change = _image_change(first, second)
        if change.ways:
            self.images.append(change)
        # Its samples, under the image's name in the second version where it has one.
        name = second.name if second else first.name if first else ""
        before, after = first.places() if first else {}, second.places() if second else {}
        for key in sorted({*before, *after}):
            one, other = before.get(key), after.get(key)
            if one is None or other is None:
                # The version without the sample knows why it has none.
                without = second if one else first
                rejected = without.rejected(key) if without else {}
                self.samples.append(SampleChange(name, key[0], one, other, rejected=rejected))
                continue
            sample = _sample_change(name, one, other)
            if sample.ways:
                self.samples.append(sample)
            else:
                self.same[sample.kind] += 1

    def _attempts(self, first: _Image | None, second: _Image | None) -> None:
        """Compare the rows of the tables of attempts by number and attempt."""
        before, after = (
            {(row["number"], row["attempt"]): row for row in image.attempts} if image else {}
            for image in (first, second)
        )
        self.attempts["only_before"] += len(before.keys() - after.keys())
        self.attempts["only_after"] += len(after.keys() - before.keys())
        for key in sorted(before.keys() & after.keys()):
            one, other = before[key], after[key]
            # Another seed or kind is another edit, whose verdict says nothing about the gate.
            if (one["seed"], one["kind"]) != (other["seed"], other["kind"]):
                self.attempts["other_edit"] += 1
            elif one["reason"] != other["reason"]:
                self.gate.append(GateChange(other["image"], one, other))
            else:
                self.attempts["remeasured"] += one["scores"] != other["scores"]


def _expect_comparable(before: Version, after: Version) -> None:
    """Raise UserError unless category and image size are the same."""
    if before.category != after.category:
        raise UserError(
            f"expected two versions of one category, got {before.category!r} ({before.dir}) "
            f"and {after.category!r} ({after.dir})"
        )
    if before.image_size != after.image_size:
        (h1, w1), (h2, w2) = before.image_size, after.image_size
        raise UserError(
            f"expected two versions of one image size, got {w1}x{h1} ({before.dir}) and "
            f"{w2}x{h2} ({after.dir}); generate one of them again at the other's size"
        )


def _images(version: Version) -> list[_Image]:
    """The images of a version in order."""
    attempts: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in version.attempts():
        attempts[row["image"]].append(row)
    # In the order of `version.shards`.
    contents = [s["content"] for s in version.index["shards"] if s["role"] == "samples"]
    found = []
    for shard, content in zip(version.shards, contents, strict=True):
        rows: dict[int, list[int]] = defaultdict(list)
        for j, source in enumerate(shard.array("samples/source").tolist()):
            rows[source].append(j)
        for i in range(shard.images):
            record = shard.image_record(i)
            # An image without attempts has no row in the table.
            tried = tuple(attempts.get(record["name"], ()))
            found.append(_Image(shard, content, i, record, tuple(rows[i]), tried))
    return found


def _paired(before: Sequence[_Image], after: Sequence[_Image]) -> list[_Two]:
    """Pair images of equal digest: first those of equal name, then the rest in order of names.

    Several files of one source may have the same content, so the digest alone is ambiguous.
    """
    # Unpaired images of the second version by digest.
    left: dict[str, list[_Image]] = defaultdict(list)
    for image in sorted(after, key=lambda image: image.name):
        left[image.record["digest"]].append(image)
    partner: dict[str, _Image] = {}
    for same_name in (True, False):
        for image in sorted(before, key=lambda image: image.name):
            twins = left[image.record["digest"]]
            # First round: equal names only. Second round: any image that is left.
            fits = [t for t in twins if not same_name or t.name == image.name]
            if image.name not in partner and fits:
                partner[image.name] = fits[0]
                twins.remove(fits[0])
    # The order of the first version, then what only the second has.
    new = {id(image) for twins in left.values() for image in twins}
    found: list[_Two] = [(image, partner.get(image.name)) for image in before]
    return found + [(None, image) for image in after if id(image) in new]


def _image_change(first: _Image | None, second: _Image | None) -> ImageChange:
    """What differs of an image itself; `ways` is empty when nothing does."""
    if first is None or second is None:
        names = first.name if first else None, second.name if second else None
        return ImageChange(*names, ways=("removed",) if first else ("added",))
    one, other = first.record, second.record
    ways = [
        name
        for name, read in _IMAGE_ARRAYS.items()
        if not np.array_equal(read(first.shard, first.row), read(second.shard, second.row))
    ]
    proposals = zip(
        first.shard.proposals(first.row), second.shard.proposals(second.row), strict=True
    )
    # Masks and scores of the proposals.
    if not all(np.array_equal(left, right) for left, right in proposals):
        ways.append("proposals")
    if any(one.get(name) != other.get(name) for name in ("foreground", "relaxed")):
        ways.append("metadata")
    if one["name"] != other["name"]:
        ways.insert(0, "renamed")
    split = None if one["split"] == other["split"] else (one["split"], other["split"])
    if split:
        ways.append("split")
    return ImageChange(one["name"], other["name"], tuple(ways), split)


def _sample_change(name: str, one: Place, other: Place) -> SampleChange:
    # The split is part of the record, but a way of change of its own.
    metadata = _pairs(one.record, other.record)
    split = metadata.get("source.split")
    arrays, changed = _array_changes(one, other)
    metadata = {key: pair for key, pair in metadata.items() if key not in _DERIVED}
    number = one.record["number"]
    return SampleChange(name, number, one, other, arrays, changed, metadata, split)


def _array_changes(one: Place, other: Place) -> tuple[tuple[str, ...], int]:
    """Which arrays differ, and the number of pixels in which the edited images differ."""
    names = [
        name
        for name, read in (("mask", ShardReader.mask), ("object_mask", ShardReader.object_mask))
        if not np.array_equal(read(one.shard, one.row), read(other.shard, other.row))
    ]
    first, second = one.shard.edited(one.row), other.shard.edited(other.row)
    if np.array_equal(first, second):
        return tuple(names), 0
    return ("pixels", *names), int((first != second).any(2).sum())


def _test_changes(before: Version, after: Version) -> dict[str, list[str]]:
    """Names of real test images that were added, removed or changed."""
    # The digest over all rows is in the index, so an unchanged test split is not opened.
    if before.index["digests"]["test"] == after.index["digests"]["test"]:
        return {"added": [], "removed": [], "changed": []}
    # Names first, then the pixels and masks of images that both have.
    first, second = _test_rows(before), _test_rows(after)
    names = _name_changes(list(first), list(second))
    changed = [n for n in first if n in second and not _same_test(first[n], second[n])]
    return names | {"changed": changed}


def _test_rows(version: Version) -> dict[str, tuple[TestShardReader, int]]:
    """Shard and row of every real test image by name."""
    shards = version.test_shards
    return {shard.record(i)["name"]: (shard, i) for shard in shards for i in range(shard.images)}


def _same_test(one: tuple[TestShardReader, int], other: tuple[TestShardReader, int]) -> bool:
    (first, i), (second, j) = one, other
    if first.record(i) != second.record(j):
        return False
    arrays = zip(
        (first.original(i), *first.masks(i)), (second.original(j), *second.masks(j)), strict=True
    )
    return all(np.array_equal(left, right) for left, right in arrays)


def _label(kind: str) -> int:
    """0 for controls, 1 for anomalies."""
    return int(not is_control(kind))


def _failed(version: Version) -> list[str]:
    return [failure["name"] for failure in version.index["failures"]]


def _name_changes(before: Iterable[str], after: Iterable[str]) -> dict[str, list[str]]:
    first, second = dict.fromkeys(before), dict.fromkeys(after)
    return {
        "added": [name for name in second if name not in first],
        "removed": [name for name in first if name not in second],
    }


def _pairs(before: Any, after: Any) -> dict[str, Pair]:
    """The dotted names whose values differ, with both values; None where a name is absent."""
    first, second = flat(before), flat(after)
    # Presence is compared too: an absent name differs from one whose value is None.
    return {
        name: (first.get(name), second.get(name))
        for name in sorted({*first, *second})
        if (name in first, first.get(name)) != (name in second, second.get(name))
    }
