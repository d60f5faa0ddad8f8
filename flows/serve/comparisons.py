"""Comparisons of two versions, each made by a program of its own: a large one takes minutes.

`anomalysmith diff --json` reads every changed sample of both versions. In a process of its own it
neither shares open shards with the pages nor holds them up. A result is kept, since versions never
change.
"""

import json
import subprocess
import sys
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO, Any

from pipeline.errors import AnomalysmithError
from pipeline.reports.diff.changes import WAYS

# Programs that run at once; further comparisons wait.
_MOST_RUNNING = 2
# Results that are kept, and changes of each way in a result; the counts are of all.
_MOST_KEPT, _MOST_CHANGES = 16, 120


@dataclass(slots=True, eq=False)
class _Running:
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]

    def result(self) -> dict[str, Any]:
        """What the finished program printed; its error where it failed."""
        self.output.seek(0)
        self.errors.seek(0)
        if self.process.returncode:
            lines = self.errors.read().decode("utf-8", "replace").strip().splitlines()
            raise AnomalysmithError(lines[-1] if lines else "the comparison ended without a result")
        found: dict[str, Any] = json.loads(self.output.read().splitlines()[-1])
        return found | {way: found[way][:_MOST_CHANGES] for way in (*WAYS, "images")}


class Comparisons:
    """Running and finished comparisons by the folders of their versions.

    `patience` is the time in seconds that a page waits for a result before it says that it is being
    made.
    """

    def __init__(self, patience: float = 4.0) -> None:
        self._patience = patience
        self._kept: OrderedDict[tuple[Path, Path], dict[str, Any]] = OrderedDict()
        self._running: dict[tuple[Path, Path], _Running] = {}
        self._lock = Lock()

    def get(self, before: Path, after: Path) -> dict[str, Any] | None:
        """The result, as `diff --json` prints it; None while it is being made, or waits for others.

        AnomalysmithError when the versions cannot be compared; asked again, it tries again.
        """
        pair = (before, after)
        with self._lock:
            if pair in self._kept:
                self._kept.move_to_end(pair)
                return self._kept[pair]
            running = self._running.get(pair)
            busy = sum(other.process.poll() is None for other in self._running.values())
            if running is None and busy >= _MOST_RUNNING:
                return None
            running = running or self._started(pair)
        try:
            running.process.wait(self._patience)
        except subprocess.TimeoutExpired:
            return None
        with self._lock:
            # Two pages may have waited for the same one.
            if pair in self._kept:
                return self._kept[pair]
            self._running.pop(pair, None)
            self._kept[pair] = running.result()
            while len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
            return self._kept[pair]

    def close(self) -> None:
        """End the programs that still run."""
        for running in self._running.values():
            running.process.terminate()
            running.process.wait()

    def _started(self, pair: tuple[Path, Path]) -> _Running:
        # Files, as nobody reads a pipe meanwhile.
        output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        words = [sys.executable, "-m", "flows.cli", "diff", "--json", "--", *map(str, pair)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        self._running[pair] = _Running(process, output, errors)
        return self._running[pair]
