"""How fast and how small dataset versions are, against memory itself and against other formats.

    python -m benchmarks.storage [--wall]

A sample is original, edited image and mask, 256 pixels, read in shuffled order with a hot page
cache; `samples.py` describes the images. The PNG folder keeps three files per sample, originals
of one image repeated, as a detector's loader expects it. Everything is measured in turn in one
process; medians of processor time, or of wall time with `--wall`. Zarr is measured where it is
installed; it is not a dependency.
"""

import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.storage.formats import shard_bytes, version, write_png
from benchmarks.storage.measuring import COUNTED, Size
from benchmarks.storage.packing import FLAT, megabytes_per_thousand
from benchmarks.storage.reading import reading
from benchmarks.storage.samples import EDITS, SAMPLES, photo, triples
from benchmarks.storage.writing import writing
from benchmarks.timing import Row, print_table


def main() -> list[Row | Size]:
    """Print the tables and return their rows."""
    # One thread: processor time would add up several.
    cv2.setNumThreads(1)
    clock = time.perf_counter if "--wall" in sys.argv else time.process_time
    rng = np.random.default_rng(0)
    results = [photo(number, 1, rng) for number in range(SAMPLES)]
    # As many samples, but ten edits share an original, which a version stores once.
    many = [photo(number, EDITS, rng) for number in range(SAMPLES // EDITS)]
    samples = list(triples(results))
    # Three versions: the default profile, ten edits per image, and the fast profile in one shard or
    # several.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # First, before memory holds what the others leave behind.
        (folder / "packing").mkdir()
        growth = megabytes_per_thousand(folder / "packing")
        default = version(folder / "default", results)
        ten = version(folder / "ten", many)
        fast = version(folder / "fast", results, profile="fast")
        whole = version(folder / "whole", results, profile="fast", shard_images=SAMPLES)
        png_bytes = write_png(folder / "png", samples) / len(samples)
        ten_png = write_png(folder / "ten-png", list(triples(many))) / SAMPLES
        rows = reading(folder, samples, {"default": default, "fast": fast, "whole": whole}, clock)
        rows += writing(folder, results, samples, clock)
    # The unit is part of the table's title.
    unit = "wall" if "--wall" in sys.argv else "processor"
    print_table(f"Storage: seconds of {unit} time for {COUNTED} samples", rows)
    # Originals that several samples share make the difference to the PNG folder.
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
    held = "yes" if growth <= FLAT else "NO"
    print(f"\nMemory while packing: {growth:.2f} MB per 1 000 images, aim at most {FLAT:g}: {held}")
    return [*rows, *sizes]


if __name__ == "__main__":
    main()
