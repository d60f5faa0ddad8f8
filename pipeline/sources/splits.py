"""Hold out normal images for validation, whole groups at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pipeline.records import SourceEntry
from pipeline.sources.layouts.registry import group_of


def split_entries(
    entries: Sequence[SourceEntry], validation_fraction: float, seed: int, fewest: int = 1
) -> tuple[SourceEntry, ...]:
    """Hold out a share of the training normals for validation, equally on every machine.

    A layout with a validation split of its own keeps it. Whole groups are held out (all images of
    one patient), in the order of a hash of seed and name: when the fraction is above 0, at least
    one image, and `fewest` as long as they are at most half, but never all groups of training. Test
    entries are not touched.
    """
    train = [entry for entry in entries if entry.split == "train"]
    groups: dict[str, int] = {}
    for entry in train:
        groups[group_of(entry)] = groups.get(group_of(entry), 0) + 1
    # A single group cannot be on both sides of the split.
    own = any(entry.split == "validation" for entry in entries)
    if own or not validation_fraction or len(groups) < 2:
        return tuple(entries)
    smallest = max(1, min(fewest, len(train) // 2))
    wanted, count = max(smallest, round(validation_fraction * len(train))), 0
    held_out: set[str] = set()
    # The order by hash does not depend on the other images, so adding one changes little. The last
    # group stays in training.
    for group in sorted(groups, key=lambda group: _hash(seed, group))[:-1]:
        # Skip a group that would exceed the wanted number, unless nothing is held out yet.
        if held_out and count + groups[group] > wanted:
            continue
        held_out.add(group)
        count += groups[group]
        if count >= wanted:
            break
    return tuple(
        replace(entry, split="validation")
        if entry.split == "train" and group_of(entry) in held_out
        else entry
        for entry in entries
    )


def _hash(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
