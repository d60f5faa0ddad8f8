"""Fault injection with real processes: is a failure in operation survived, or is something lost?

    python -m benchmarks.faults [--only NAME]      a table; exit code 1 when anything was lost

Each drill has a temporary folder of its own. `survived` means that nothing but time was lost: the
same command again gives the digest of an undisturbed run, or a bad input is rejected with one line
and nothing is published. docs/operation.md describes each.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults import memory as faults_memory
from benchmarks.faults import server as faults_server
from benchmarks.faults import store as faults_store
from benchmarks.faults.drill import Outcome
from pipeline.utils.text_table import table

Drill = Callable[[Path], Outcome]

# Name on the command line, and the drill.
DRILLS: dict[str, Drill] = {
    "killed": faults_store.killed,
    "server": faults_server.restarted,
    "locked": faults_server.locked,
    "full": faults_store.full,
    "bundled": faults_store.damaged_bundled_weights,
    "pulled": faults_store.damaged_pulled_weights,
    "midrun": faults_store.weights_cut_in_mid_run,
    "memory": faults_memory.out_of_memory,
    "poison": faults_store.poisoned,
}


def run_drill(name: str) -> Outcome:
    """Run one drill in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="anomalysmith-drill-") as work:
        return DRILLS[name](Path(work))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", choices=DRILLS, action="append", help="only this drill; may be repeated"
    )
    chosen = parser.parse_args(arguments).only or list(DRILLS)
    rows, good = [], True
    for name in chosen:
        started = time.monotonic()
        try:
            outcome = run_drill(name)
        except Exception as error:
            # A drill that fails to run proves nothing, so it counts as lost.
            outcome = Outcome(name, False, f"{type(error).__name__}: {error}", "the drill")
        # Exit code 1 as soon as one drill lost something.
        good &= outcome.survived
        word = "survived" if outcome.survived else "LOST"
        happened = " ".join(outcome.happened.split())
        rows.append((name, word, outcome.lost, f"{time.monotonic() - started:.0f} s", happened))
        # Progress with details on standard error, the table on standard output.
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(table(("drill", "", "lost", "time"), [row[:4] for row in rows]))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
