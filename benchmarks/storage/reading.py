"""Shuffled reads: our profiles against copies in memory and against other formats.

Shapes: B batch; H, W image; 3 colour (RGB, uint8).
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from benchmarks.storage.formats import gzip_arrays, row_by_row, zarr_v3
from benchmarks.storage.measuring import REPEATS, comparison, in_turn
from benchmarks.storage.samples import PX, Triple
from benchmarks.timing import Row
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch
from pipeline.dataset.version import Version

# Samples per batch, as in training.
BATCH = 16


def reading(
    folder: Path,
    samples: list[Triple],
    versions: dict[str, Version],
    clock: Callable[[], float],
) -> list[Row]:
    """Rows of shuffled reads; first checks that our profiles return the same samples as given."""
    arrays = [np.stack(column) for column in zip(*samples, strict=True)]
    # All batches are read into the same memory, as a data loader does.
    out = SampleBatch.empty(BATCH, (PX, PX))
    places = (out.originals_BHW3, out.edited_BHW3, out.masks_BHW)
    tables = {name: SampleTable(made) for name, made in versions.items()}
    for table in tables.values():
        got = table.batch(range(len(samples)))
        for stored, array in zip(
            (got.originals_BHW3, got.edited_BHW3, got.masks_BHW), arrays, strict=True
        ):
            np.testing.assert_array_equal(stored, array)

    def take(rows: np.ndarray) -> None:
        for chosen in rows.reshape(-1, BATCH):
            for array, place in zip(arrays, places, strict=True):
                np.take(array, chosen, 0, place, "clip")

    def copy(rows: np.ndarray) -> None:
        for row in rows.tolist():
            for array, place in zip(arrays, places, strict=True):
                np.copyto(place[0], array[row])

    def ours(table: SampleTable) -> Callable[[np.ndarray], None]:
        def read(rows: np.ndarray) -> None:
            for chosen in rows.reshape(-1, BATCH):
                table.batch(chosen.tolist(), out)

        return read

    def png(rows: np.ndarray) -> None:
        for row in rows.tolist():
            for kind, flag in (("original", 1), ("edited", 1), ("mask", 0)):
                cv2.imread(str(folder / "png" / f"{row}-{kind}.png"), flag)

    own = {name: ours(table) for name, table in tables.items()}
    # Reads at the speed of memory are short, so they are repeated more often.
    memory = in_turn({"take": take, "copy": copy, **own}, clock, 3 * REPEATS)
    calls: dict[str, Callable[[np.ndarray], None]] = {
        "default": own["default"],
        "png": png,
        "gzip": row_by_row(gzip_arrays(folder / "gzip.h5", arrays)),
    }
    zarr_arrays = zarr_v3(folder / "zarr", arrays)
    if zarr_arrays:
        calls["zarr"] = row_by_row(zarr_arrays)
    seconds = in_turn(calls, clock)
    rows = [
        comparison("shuffled batches of 16, fast profile, one shard", "whole", "take", 0.9, memory),
        comparison(
            "shuffled batches of 16, fast profile, five shards", "fast", "take", 0.9, memory
        ),
        comparison("full samples, default profile", "default", "copy", 0.35, memory),
        comparison("full samples, default profile", "default", "png", 40, seconds),
        comparison("full samples, default profile", "default", "gzip", 30, seconds),
    ]
    if zarr_arrays:
        rows.append(comparison("full samples, default profile", "default", "zarr", 15, seconds))
    else:
        print("Zarr is not installed and is left out; `pip install zarr` adds it.")
    return rows
