"""How fast and how small dataset versions are, against memory itself and against other formats.

python -m benchmarks.storage [--wall]

Photographs (random rescaled crops of those that scikit-image bundles, with sensor noise of sigma 1)
with one edit each: `cv2.inpaint` inside an object-like polygon of about 4 % of the area. A sample
is original, edited image and mask, 256 pixels, read in shuffled order with a hot page cache.
The PNG folder keeps three files per sample, originals of one image repeated, as a detector's
loader wants it. Everything is measured in turn in one process; medians of processor time, or of
wall time with `--wall`. Zarr is measured where it is installed; it is no dependency of ours.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import skimage

from benchmarks.timing import Row, print_table
from pipeline.dataset.hdf5_columns import file_image
from pipeline.dataset.sample_table import SampleTable
from pipeline.dataset.shard_reader import SampleBatch
from pipeline.dataset.shard_writer import SampleRows, write_shard
from pipeline.dataset.version import Version
from pipeline.dataset.version_writer import VersionHeader
from pipeline.generation.publish import publish
from pipeline.records import (
    Attempt,
    Edit,
    ForegroundMask,
    ImageResult,
    ObjectProposals,
    Sample,
    Verdict,
    bounding_box,
)
from pipeline.utils.files import sync

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg",
          "motorcycle_right.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg")  # fmt: skip
PX, SAMPLES, EDITS, BATCH = 256, 320, 10, 16
REPEATS, COUNTED = 5, 10_000
SLOW = 64
"""Formats that take milliseconds per sample are measured on so many of them."""

WRITING = 2.5, 3.5, 6.0
"""Times a PNG folder's speed that writing is claimed to reach; 15 was the aim and is missed."""

WHITE = np.uint8(255)
PEERS = {
    "take": "np.take in memory",
    "copy": "copies in memory",
    "png": "PNG folder, OpenCV",
    "gzip": "HDF5, gzip-4, chunk = 1 sample",
    "zarr": "Zarr v3, no codec, chunk = 1 sample",
}

Triple = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Original and edited (H, W, 3) uint8, mask (H, W) bool."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes per sample on disk, and the largest share of a PNG folder that is claimed."""

    what: str
    bytes: float
    png: float
    claimed: float

    @property
    def holds(self) -> bool:
        return self.bytes <= self.claimed * self.png


def main() -> list[Row | Size]:
    """Print the tables and return their rows."""
    cv2.setNumThreads(1)
    clock = time.perf_counter if "--wall" in sys.argv else time.process_time
    rng = np.random.default_rng(0)
    results = [photo(number, 1, rng) for number in range(SAMPLES)]
    many = [photo(number, EDITS, rng) for number in range(SAMPLES // EDITS)]
    samples = list(triples(results))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        default = version(folder / "default", results)
        ten = version(folder / "ten", many)
        fast = version(folder / "fast", results, profile="fast")
        whole = version(folder / "whole", results, profile="fast", shard_images=SAMPLES)
        png_bytes = write_png(folder / "png", samples) / len(samples)
        ten_png = write_png(folder / "ten-png", list(triples(many))) / SAMPLES
        rows = reading(folder, samples, {"default": default, "fast": fast, "whole": whole}, clock)
        rows += writing(folder, results, samples, clock)
    unit = "wall" if "--wall" in sys.argv else "processor"
    print_table(f"Storage: seconds of {unit} time for {COUNTED} samples", rows)
    sizes = [
        Size("1 edit per image", shard_bytes(default) / SAMPLES, png_bytes, 0.85),
        Size(f"{EDITS} edits per image", shard_bytes(ten) / SAMPLES, ten_png, 0.13),
    ]
    print("\n| size, default profile | bytes per sample | PNG folder | share | claimed | holds |")
    print("|---|---|---|---|---|---|")
    for size in sizes:
        print(
            f"| {size.what} | {size.bytes:.0f} | {size.png:.0f} | {size.bytes / size.png:.3f} "
            f"| {size.claimed:g} | {'yes' if size.holds else 'NO'} |"
        )
    return [*rows, *sizes]


def version(folder: Path, results: list[ImageResult], **options: Any) -> Version:
    """A published version of these results."""
    header = VersionHeader(settings={}, plan_digest="0" * 12)
    return publish(folder, "photo", results, [], header, gallery=False, **options)


def reading(
    folder: Path,
    samples: list[Triple],
    versions: dict[str, Version],
    clock: Callable[[], float],
) -> list[Row]:
    """Shuffled reads. Our profiles and the peers hold the same samples, which is checked first."""
    arrays = [np.stack(column) for column in zip(*samples, strict=True)]
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
        row("shuffled batches of 16, fast profile, one shard", "whole", "take", 0.9, memory),
        row("shuffled batches of 16, fast profile, five shards", "fast", "take", 0.9, memory),
        row("full samples, default profile", "default", "copy", 0.35, memory),
        row("full samples, default profile", "default", "png", 40, seconds),
        row("full samples, default profile", "default", "gzip", 30, seconds),
    ]
    if zarr_arrays:
        rows.append(row("full samples, default profile", "default", "zarr", 15, seconds))
    else:
        print("Zarr is not installed, so it is left out: `pip install zarr` to have it measured.")
    return rows


def writing(
    folder: Path, results: list[ImageResult], samples: list[Triple], clock: Callable[[], float]
) -> list[Row]:
    """A shard as the store writes it, without reading back, and the pixels alone like a PNG folder.

    Digests are SHA-256 over the decoded content and over the file. PNG files carry none, are not
    read back and not synced.
    """
    path = folder / "written.h5"

    def whole(_: np.ndarray) -> None:
        write_shard(path, results)

    def unread(_: np.ndarray) -> None:
        rows = SampleRows()
        for result in results:
            rows.add(result)
        path.write_bytes(file_image(rows.to_columns("default"), {}, "default"))
        sync(path)

    ready = SampleRows()
    for result in results:
        ready.add(result)

    def pixels(_: np.ndarray) -> None:
        path.write_bytes(file_image(ready.to_columns("default"), {}, "default"))
        sync(path)

    def png(rows: np.ndarray) -> None:
        write_png(folder / "png-again", [samples[row] for row in rows.tolist()])

    calls = {"whole": whole, "unread": unread, "pixels": pixels, "png": png}
    seconds = in_turn(calls, clock, repeats=3)
    return [
        row("writing: digests, file digest, read back", "whole", "png", WRITING[0], seconds),
        row("writing: content digests, not read back", "unread", "png", WRITING[1], seconds),
        row("writing: no digests, not read back", "pixels", "png", WRITING[2], seconds),
    ]


def in_turn(
    calls: dict[str, Callable[[np.ndarray], None]],
    clock: Callable[[], float],
    repeats: int = REPEATS,
) -> dict[str, float]:
    """Median seconds of each call for samples in a shuffled order, the calls taking turns.

    All samples, or `SLOW` of them for the slow ones; the time is counted up to `COUNTED`.
    """
    rng = np.random.default_rng(1)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            rows = rng.permutation(SAMPLES)[: SLOW if name in ("png", "gzip", "zarr") else None]
            started = clock()
            call(rows)
            if turn:  # the first turn only warms the caches
                times[name].append((clock() - started) * COUNTED / len(rows))
    return {name: statistics.median(taken) for name, taken in times.items()}


def row(what: str, ours: str, peer: str, claimed: float, seconds: dict[str, float]) -> Row:
    """One line of the table."""
    return Row(what, seconds[ours], PEERS[peer], seconds[peer], claimed)


def photo(number: int, edits: int, rng: np.random.Generator) -> ImageResult:
    """A crop of a photograph with edits, as the pipeline hands them to the store."""
    picture = photographs()[rng.integers(len(PHOTOS))]
    side = int(rng.uniform(0.5, 1.0) * min(picture.shape[:2]))
    y, x = (int(rng.integers(length - side + 1)) for length in picture.shape[:2])
    how = cv2.INTER_AREA if side > PX else cv2.INTER_LINEAR
    original = cv2.resize(picture[y : y + side, x : x + side], (PX, PX), interpolation=how)
    original = np.clip(original + rng.normal(0, 1, original.shape).round(), 0, 255).astype(np.uint8)
    attempts = []
    for turn in range(edits):
        mask = polygon(rng)
        edited = np.where(mask[..., None], inpainted(original, mask), original)
        edit = Edit("missing", (0,), {"grow": 3}, turn)
        verdict = Verdict(True, "", {"delta_e": 10.0})
        sample = Sample(edit, edited, mask, mask)
        attempts.append(Attempt(turn, 0, "missing", turn, sample, verdict, 0.0))
    proposals = ObjectProposals(mask[None], np.ones(1, np.float32), mask)
    return ImageResult(
        name=f"{number}.png",
        digest=f"{number:064x}",
        split="train",
        pixels_HW3=original,
        foreground=ForegroundMask(mask),
        proposals=proposals,
        attempts=tuple(attempts),
    )


@cache
def photographs() -> list[np.ndarray]:
    """The photographs that scikit-image carries itself, RGB."""
    folder = Path(skimage.__path__[0]) / "data"
    return [cv2.cvtColor(cv2.imread(str(folder / name)), cv2.COLOR_BGR2RGB) for name in PHOTOS]


def polygon(rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: a blob of nine corners, about 4 % of the area."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    radii = 1.1 * PX * np.sqrt(0.04 / np.pi) * rng.uniform(0.6, 1.4, 9)
    centre = rng.uniform(0.2 * PX, 0.8 * PX, 2)
    corners = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    mask = np.zeros((PX, PX), np.uint8)
    return cv2.fillPoly(mask, [corners.astype(np.int32)], 1).view(np.bool_)


def inpainted(original: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Telea's inpainting, of a window around the mask because the whole image takes much longer."""
    x0, y0, x1, y1 = bounding_box(mask)
    window = np.s_[max(y0 - 8, 0) : y1 + 8, max(x0 - 8, 0) : x1 + 8]
    filled = original.copy()
    filled[window] = cv2.inpaint(
        original[window], mask[window].astype(np.uint8), 3, cv2.INPAINT_TELEA
    )
    return filled


def triples(results: list[ImageResult]) -> Iterator[Triple]:
    """What every format has to keep."""
    for result in results:
        for attempt in result.attempts:
            sample = attempt.sample
            assert sample is not None
            yield result.pixels_HW3, sample.pixels_HW3, sample.change_HW


def write_png(folder: Path, samples: list[Triple]) -> int:
    """Three PNG files per sample with OpenCV's defaults; the bytes of all."""
    folder.mkdir(exist_ok=True)
    for number, (original, edited, mask) in enumerate(samples):
        for kind, pixels in (("original", original), ("edited", edited), ("mask", mask * WHITE)):
            colours = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
            cv2.imwrite(str(folder / f"{number}-{kind}.png"), colours)
    return sum(path.stat().st_size for path in folder.iterdir())


def gzip_arrays(path: Path, arrays: list[np.ndarray]) -> list[Any]:
    """The usual way to use HDF5: one compressed array each, here with kindly chosen chunks."""
    file = h5py.File(path, "w")
    return [
        file.create_dataset(
            str(number), data=array, chunks=(1, *array.shape[1:]), compression="gzip"
        )
        for number, array in enumerate(arrays)
    ]


def zarr_v3(path: Path, arrays: list[np.ndarray]) -> list[Any]:
    """Zarr v3 arrays of one sample per chunk without a codec, its fastest; empty without Zarr."""
    try:
        import zarr
    except ImportError:
        return []
    made = []
    for number, array in enumerate(arrays):
        chunks = (1, *array.shape[1:])
        stored = zarr.create_array(
            path / str(number),
            shape=array.shape,
            chunks=chunks,
            dtype=array.dtype,
            compressors=None,
        )
        stored[:] = array
        made.append(stored)
    return made


def row_by_row(arrays: list[Any]) -> Callable[[np.ndarray], None]:
    """Read whole samples one after the other from arrays that are indexed by sample."""

    def read(rows: np.ndarray) -> None:
        for index in rows.tolist():
            for array in arrays:
                array[index]

    return read


def shard_bytes(version: Version) -> int:
    """Everything in the shards, also what the other formats do not keep."""
    return sum(shard["bytes"] for shard in version.index["shards"])


if __name__ == "__main__":
    main()
