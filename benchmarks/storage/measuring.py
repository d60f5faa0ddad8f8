"""Timing of calls in turn, and the rows and sizes that the benchmark prints."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.storage.samples import SAMPLES
from benchmarks.timing import Row

# Rounds of each call, and the number of samples that times are scaled to.
REPEATS, COUNTED = 5, 10_000
# Formats that take milliseconds per sample are measured on this many samples.
SLOW = 64
# Names of the baselines in the table.
PEERS = {
    "take": "np.take in memory",
    "copy": "copies in memory",
    "png": "PNG folder, OpenCV",
    "gzip": "HDF5, gzip-4, chunk = 1 sample",
    "zarr": "Zarr v3, no codec, chunk = 1 sample",
}


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes per sample on disk, and the claimed largest share of a PNG folder's."""

    what: str
    bytes: float
    png: float
    claimed: float

    @property
    def holds(self) -> bool:
        return self.bytes <= self.claimed * self.png


def in_turn(
    calls: dict[str, Callable[[np.ndarray], None]],
    clock: Callable[[], float],
    repeats: int = REPEATS,
) -> dict[str, float]:
    """Median seconds of each call for samples in a shuffled order, the calls taking turns.

    Each reads all samples, or `SLOW` of them where it is slow; times are scaled to `COUNTED`.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            rows = rng.permutation(SAMPLES)[: SLOW if name in ("png", "gzip", "zarr") else None]
            started = clock()
            call(rows)
            if turn:
                # The first round only warms the caches.
                times[name].append((clock() - started) * COUNTED / len(rows))
    return {name: statistics.median(taken) for name, taken in times.items()}


def comparison(what: str, ours: str, peer: str, claimed: float, seconds: dict[str, float]) -> Row:
    """One line of the table: our call against a peer, both by their keys in `seconds`."""
    return Row(what, seconds[ours], PEERS[peer], seconds[peer], claimed)
