"""Every benchmark, one after another: `make bench`. Exit code 1 when a claim does not hold."""

import sys

from benchmarks import detectors, quality, storage
from benchmarks.generation import __main__ as generation

if __name__ == "__main__":
    rows = [*generation.main(), *storage.main(), *detectors.main()]
    quality.main()
    sys.exit(not all(row.holds for row in rows))
