"""Records of what differs between two versions: samples, gate decisions, images, provenance.

    added      accepted in the second version only
    removed    accepted in the first version only
    pixels     accepted in both, but the edited image or one of its masks differs
    metadata   accepted in both, but the lineage differs (seed, plan, kind, scores)
    split      accepted in both, but in another split
    gate       attempted in both with the same seed and kind, but judged differently

The first two exclude the others; a sample may be in several of the rest. `compare.py` finds them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.sample_id import sample_id
from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version

# Ways of change, in the order in which text and page show them.
WAYS = ("added", "removed", "pixels", "metadata", "split", "gate")
ACCEPTED = "accepted"

# The values of the first and of the second version.
Pair = tuple[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A stored sample: where it is stored, and its lineage."""

    shard: ShardReader
    row: int
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        # The full record would repeat what `show` prints for each version.
        names = ("id", "kind", "attempt")
        return {name: self.record[name] for name in names} | {
            "split": self.record["source"]["split"]
        }


@dataclass(frozen=True, slots=True, eq=False)
class SampleChange:
    """One sample of one image that is not the same in both versions.

    `arrays` names what differs of `pixels`, `mask`, `object_mask`; `changed_pixels` counts the
    pixels with another colour. `metadata` maps dotted names to both values. `rejected` explains an
    added or removed sample: the rejection reasons of the other version's attempts, counted; empty
    when it made none.
    """

    image: str
    number: int
    before: Place | None
    after: Place | None
    arrays: tuple[str, ...] = ()
    changed_pixels: int = 0
    metadata: Mapping[str, Pair] | None = None
    split: Pair | None = None
    rejected: Mapping[str, int] | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        """The ways of WAYS in which the sample changed."""
        if self.before is None or self.after is None:
            return ("added",) if self.before is None else ("removed",)
        # In the order of WAYS; masks count as pixels.
        found = {"pixels": self.arrays, "metadata": self.metadata, "split": self.split}
        return tuple(way for way, what in found.items() if what)

    @property
    def kind(self) -> str:
        """The kind in the first version; what is new counts under its kind in the second."""
        # At least one of the two is there.
        place = self.before or self.after
        assert place is not None
        return place.record["kind"]

    def to_json(self) -> dict[str, Any]:
        # Added and removed samples have no counterpart to compare with.
        plain: dict[str, Any] = {"image": self.image, "number": self.number, "kind": self.kind}
        plain["before"] = self.before.to_json() if self.before else None
        plain["after"] = self.after.to_json() if self.after else None
        if self.before is None or self.after is None:
            # The key is older than the word; readers of `--json` know it.
            return plain | {"refused": dict(self.rejected or {})}
        return plain | {
            "arrays": list(self.arrays),
            "changed_pixels": self.changed_pixels,
            "metadata": {name: list(pair) for name, pair in (self.metadata or {}).items()},
            "split": list(self.split) if self.split else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class GateChange:
    """One attempt with the same seed and kind in both versions, but another verdict.

    `before` and `after` are its rows in the two tables of attempts.
    """

    image: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.before["kind"]

    @property
    def id(self) -> str:
        return sample_id(self.image, self.before["number"], self.before["attempt"])

    @property
    def decisions(self) -> tuple[str, str]:
        """`accepted` or the rejection reason, in both versions."""
        return self.before["reason"] or ACCEPTED, self.after["reason"] or ACCEPTED

    def to_json(self) -> dict[str, Any]:
        before, after = self.decisions
        # Equal in both versions: these identify the attempt.
        row = {name: self.before[name] for name in ("number", "attempt", "kind", "seed")}
        scores = {"before": self.before["scores"], "after": self.after["scores"]}
        return {"image": self.image, **row, "before": before, "after": after, "scores": scores}


@dataclass(frozen=True, slots=True, eq=False)
class ImageChange:
    """One source image: its names in both versions (None where it is absent) and what differs.

    `ways` holds some of added, removed, renamed, split, pixels, foreground, proposals, metadata.
    An image whose file was replaced under the same name has another digest: it counts as removed
    and added.
    """

    before: str | None
    after: str | None
    ways: tuple[str, ...]
    split: Pair | None = None

    def to_json(self) -> dict[str, Any]:
        plain = {"before": self.before, "after": self.after, "ways": list(self.ways)}
        return plain | ({"split": list(self.split)} if self.split else {})


@dataclass(frozen=True, eq=False)
class Diff:
    """Everything that differs between `before` and `after`.

    `same` counts unchanged samples by kind. `attempts` counts attempts that have no counterpart
    (`only_before`, `only_after`), `other_edit` (the same number, but another seed or kind) and
    `remeasured` (the same verdict, but other scores). `making` holds settings, weights, software,
    code, licence and the like by dotted name; `test` and `failures` hold names of files.
    """

    before: Version
    after: Version
    samples: tuple[SampleChange, ...]
    gate: tuple[GateChange, ...]
    images: tuple[ImageChange, ...]
    test: Mapping[str, list[str]]
    failures: Mapping[str, list[str]]
    making: Mapping[str, Pair]
    same: Mapping[str, int]
    attempts: Mapping[str, int]

    @property
    def equal(self) -> bool:
        """True when both have the same content; its provenance may still differ."""
        return self.before.digest == self.after.digest

    @property
    def replaced(self) -> list[str]:
        """Names under which the two versions have different files."""
        # A name that is both removed and added stands for two files.
        gone = {change.before for change in self.images if change.ways == ("removed",)}
        return [
            c.after for c in self.images if c.ways == ("added",) and c.after in gone and c.after
        ]

    @property
    def only_order(self) -> bool:
        """True when the digests differ although no row does: the rows are in another order."""
        found = (self.samples, self.gate, self.images, *self.test.values(), *self.failures.values())
        # Besides the rows, these two fields enter the dataset digest.
        digested = {"licence", "defects_config"} & set(self.making)
        return not (self.equal or any(found) or any(self.attempts.values()) or digested)

    def of(self, way: str) -> list[SampleChange]:
        """The samples that changed in one way, in the order of the first version."""
        return [change for change in self.samples if way in change.ways]

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Counts of unchanged samples and of every way of change, by kind of edit."""
        # Kinds that occur only unchanged, or only changed, have a row too.
        counts = {kind: Counter(same=number) for kind, number in self.same.items() if number}
        for kind, way in self._changes():
            counts.setdefault(kind, Counter())[way] += 1
        names = ("same", *WAYS)
        return {kind: {name: counts[kind][name] for name in names} for kind in sorted(counts)}

    def counts(self) -> dict[str, int]:
        """The same over all kinds."""
        rows = self.by_kind().values()
        return {name: sum(row[name] for row in rows) for name in ("same", *WAYS)}

    def _changes(self) -> Iterator[tuple[str, str]]:
        """Kind and way of every change."""
        # A sample with several ways counts once in each.
        for change in self.samples:
            yield from ((change.kind, way) for way in change.ways)
        yield from ((decision.kind, "gate") for decision in self.gate)

    def to_json(self) -> dict[str, Any]:
        # One list per way, so a sample with several ways is listed in each.
        samples = {way: [c.to_json() for c in self.of(way)] for way in WAYS if way != "gate"}
        return {
            "equal": self.equal,
            "only_order": self.only_order,
            "before": _named(self.before),
            "after": _named(self.after),
            "counts": self.counts(),
            "by_kind": self.by_kind(),
            **samples,
            "gate": [decision.to_json() for decision in self.gate],
            "attempts": dict(self.attempts),
            "images": [change.to_json() for change in self.images],
            "replaced": self.replaced,
            "test": dict(self.test),
            "failures": dict(self.failures),
            "making": {name: list(pair) for name, pair in self.making.items()},
        }


def _named(version: Version) -> dict[str, Any]:
    """What identifies a version, and its totals."""
    counts = version.index["counts"]
    return {
        "version_dir": str(version.dir.resolve()),
        "version": version.name,
        "digest": version.digest,
        "images": counts["images"],
        "samples": counts["accepted"],
        "attempts": counts["attempts"],
        "test": counts["test"]["images"],
    }
