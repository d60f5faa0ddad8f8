"""What goes wrong in operation, done on purpose, with real processes: survived or lost.

    python -m benchmarks.faults [--only NAME]      a table; exit code 1 when anything was lost

Each drill has a temporary folder of its own. `survived` means that nothing but time was lost: the
same command again gives the digest of an undisturbed run, or a bad input is refused with one line
and nothing is published. docs/operation.md says what each stands for.
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
from flows.commands.console import table

Drill = Callable[[Path], Outcome]

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


def carry_out(name: str) -> Outcome:
    """One drill in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="anomalysmith-drill-") as work:
        return DRILLS[name](Path(work))


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=DRILLS, action="append", help="this drill; repeatable")
    chosen = parser.parse_args(words).only or list(DRILLS)
    rows, good = [], True
    for name in chosen:
        started = time.monotonic()
        try:
            outcome = carry_out(name)
        except Exception as error:  # a drill that breaks has shown nothing
            outcome = Outcome(name, False, f"{type(error).__name__}: {error}", "the drill")
        good &= outcome.survived
        word = "survived" if outcome.survived else "LOST"
        happened = " ".join(outcome.happened.split())
        rows.append((name, word, outcome.lost, f"{time.monotonic() - started:.0f} s", happened))
        print(*rows[-1], sep="  ", file=sys.stderr, flush=True)
    print(table(("drill", "", "lost", "time"), [row[:4] for row in rows]))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
