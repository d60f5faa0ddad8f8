"""Hold out normal images for validation, whole groups at a time."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from pipeline.records import SourceEntry
from pipeline.sources.layouts.registry import group_of


def split_entries(
    entries: Sequence[SourceEntry], validation_fraction: float, seed: int
) -> tuple[SourceEntry, ...]:
    """Hold out a share of the training normals for validation; the same ones on every machine.

    A layout that brings its own validation split keeps it. Chosen by the smallest hash of seed and
    name, whole groups at a time (all images of one patient), at least one image where the fraction
    is above 0, and never the last group of training. Test entries pass through untouched.
    """
    train = [entry for entry in entries if entry.split == "train"]
    groups: dict[str, int] = {}
    for entry in train:
        groups[group_of(entry)] = groups.get(group_of(entry), 0) + 1
    own = any(entry.split == "validation" for entry in entries)
    if own or not validation_fraction or len(groups) < 2:
        return tuple(entries)
    wanted, count = max(1, round(validation_fraction * len(train))), 0
    held_out: set[str] = set()
    for group in sorted(groups, key=lambda group: _draw(seed, group))[:-1]:
        # A group that overshoots is passed over, unless nothing is held out yet.
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


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}:{group}".encode()).digest()
