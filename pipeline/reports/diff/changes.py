"""What can differ between two versions, as records: samples, gate decisions, images, making.

    added      accepted in the second version only
    removed    accepted in the first version only
    pixels     accepted in both, but the edited image or one of its masks is another
    metadata   accepted in both, but the lineage says something else (seed, plan, kind, scores)
    split      accepted in both, on another side of the split
    gate       tried in both with the same seed and kind, but judged otherwise

The first two exclude the others; a sample may be in several of the rest. `diff.py` finds them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import Version

WAYS = ("added", "removed", "pixels", "metadata", "split", "gate")
ACCEPTED = "accepted"

Pair = tuple[Any, Any]
"""What the first version says and what the second says."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A stored sample: where it lies and its lineage."""

    shard: ShardReader
    row: int
    record: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        names = ("id", "kind", "attempt")
        return {name: self.record[name] for name in names} | {
            "split": self.record["source"]["split"]
        }


@dataclass(frozen=True, slots=True, eq=False)
class SampleChange:
    """One sample of one image that is not the same in both versions.

    `arrays` names what differs of `pixels`, `mask`, `object_mask`; `changed_pixels` counts the
    image positions with another colour. `metadata` maps dotted names to both values. `refused`
    says for an added or removed sample why the other version has none: reasons of its refused
    attempts, counted; empty when it never tried.
    """

    image: str
    number: int
    before: Place | None
    after: Place | None
    arrays: tuple[str, ...] = ()
    changed_pixels: int = 0
    metadata: Mapping[str, Pair] | None = None
    split: Pair | None = None
    refused: Mapping[str, int] | None = None

    @property
    def ways(self) -> tuple[str, ...]:
        if self.before is None or self.after is None:
            return ("added",) if self.before is None else ("removed",)
        found = {"pixels": self.arrays, "metadata": self.metadata, "split": self.split}
        return tuple(way for way, what in found.items() if what)

    @property
    def kind(self) -> str:
        """The kind in the first version; what is new counts under its kind in the second."""
        place = self.before or self.after
        assert place is not None
        return place.record["kind"]

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"image": self.image, "number": self.number, "kind": self.kind}
        plain["before"] = self.before.to_json() if self.before else None
        plain["after"] = self.after.to_json() if self.after else None
        if self.before is None or self.after is None:
            return plain | {"refused": dict(self.refused or {})}
        return plain | {
            "arrays": list(self.arrays),
            "changed_pixels": self.changed_pixels,
            "metadata": {name: list(pair) for name, pair in (self.metadata or {}).items()},
            "split": list(self.split) if self.split else None,
        }


@dataclass(frozen=True, slots=True, eq=False)
class GateChange:
    """One attempt that both versions made alike and judged differently; rows of their tables."""

    image: str
    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def kind(self) -> str:
        return self.before["kind"]

    @property
    def id(self) -> str:
        return f"{self.image}@{self.before['number']}.{self.before['attempt']}"

    @property
    def decisions(self) -> tuple[str, str]:
        """`accepted`, or the reason against it, in both versions."""
        return self.before["reason"] or ACCEPTED, self.after["reason"] or ACCEPTED

    def to_json(self) -> dict[str, Any]:
        before, after = self.decisions
        row = {name: self.before[name] for name in ("number", "attempt", "kind", "seed")}
        scores = {"before": self.before["scores"], "after": self.after["scores"]}
        return {"image": self.image, **row, "before": before, "after": after, "scores": scores}


@dataclass(frozen=True, slots=True, eq=False)
class ImageChange:
    """One source image: its names in both versions (None where it is absent) and what differs.

    `ways` holds some of added, removed, renamed, split, pixels, foreground, proposals, metadata.
    An image whose file was replaced under its name is removed and added: it has another digest.
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

    `same` counts unchanged samples by kind. `attempts` counts tries that have no counterpart:
    `only_before`, `only_after`, `other_edit` (the same place, another seed or kind) and
    `remeasured` (judged alike, other scores). `making` holds settings, weights, software, code,
    licence and the like by dotted name; `test` and `failures` names of files.
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
        """True when both hold the same content; how it was made may still differ."""
        return self.before.digest == self.after.digest

    @property
    def replaced(self) -> list[str]:
        """Names under which the two versions have different files."""
        gone = {change.before for change in self.images if change.ways == ("removed",)}
        return [
            c.after for c in self.images if c.ways == ("added",) and c.after in gone and c.after
        ]

    @property
    def only_order(self) -> bool:
        """True when the digests differ although no row does: the rows come in another order."""
        found = (self.samples, self.gate, self.images, *self.test.values(), *self.failures.values())
        digested = {"licence", "defects_config"} & set(self.making)
        return not (self.equal or any(found) or any(self.attempts.values()) or digested)

    def of(self, way: str) -> list[SampleChange]:
        """The samples that changed in one way, in the order of the first version."""
        return [change for change in self.samples if way in change.ways]

    def by_kind(self) -> dict[str, dict[str, int]]:
        """Counts of unchanged samples and of every way of change, by kind of edit."""
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
        for change in self.samples:
            yield from ((change.kind, way) for way in change.ways)
        yield from ((decision.kind, "gate") for decision in self.gate)

    def to_json(self) -> dict[str, Any]:
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
