"""One sample of a version: find it by name or number, and lay its three pictures side by side."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.shardfiles import ShardReader
from pipeline.versions import Version

GAP = 8
"""White pixels between the pictures."""


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """One sample: (H, W, 3) uint8 original and edited, (H, W) bool mask, its lineage."""

    original_HW3: np.ndarray
    edited_HW3: np.ndarray
    mask_HW: np.ndarray
    record: dict[str, Any]


def find_sample(version: Version, wanted: str) -> Shown:
    """The sample of that id, accepted or kept reject, or the accepted sample of that number."""
    known: list[str] = []
    number = int(wanted) if wanted.isdecimal() else None
    for shard, j, accepted in _rows(version):
        record = shard.record(j)
        if record["id"] == wanted or (accepted and len(known) == number):
            original_HW3 = shard.original(shard.source(j))
            return Shown(original_HW3, shard.edited(j), shard.mask(j), record)
        if accepted:
            known.append(record["id"])
    few = f", the first is {known[0]}" if known else ""
    raise UserError(
        f"{version.dir}: no sample {wanted!r}; it holds {len(known)}, numbered from 0{few}"
    )


def triptych(shown: Shown) -> np.ndarray:
    """(H, 3 W + 2 gaps, 3) uint8: original, change mask, edited."""
    height = shown.mask_HW.shape[0]
    gap_HW3 = np.full((height, GAP, 3), 255, np.uint8)
    mask_HW3 = np.repeat((shown.mask_HW * np.uint8(255))[:, :, None], 3, 2)
    return np.concatenate([shown.original_HW3, gap_HW3, mask_HW3, gap_HW3, shown.edited_HW3], 1)


def _rows(version: Version) -> Iterator[tuple[ShardReader, int, bool]]:
    for shard in version.shards:
        for j in range(shard.samples):
            yield shard, j, True
    if version.rejects is not None:
        for j in range(version.rejects.samples):
            yield version.rejects, j, False
