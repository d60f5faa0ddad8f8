"""Every benchmark, one after another: `make bench`. Exit code 1 when a claim does not hold."""

from flows import environment as _environment  # noqa: F401  isort: skip  first: telemetry off

import sys

from benchmarks import quality
from benchmarks.detectors import __main__ as detectors
from benchmarks.generation import __main__ as generation
from benchmarks.storage import __main__ as storage

if __name__ == "__main__":
    rows = [*generation.main(), *storage.main(), *detectors.main()]
    # The quality of the bundled models has aims, not claims, so it does not change the exit code.
    quality.main()
    sys.exit(not all(row.holds for row in rows))
