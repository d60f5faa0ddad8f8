"""Folds side by side on a CPU: each in a process of its own, some of them beside the fit of all.

    with FoldsBeside(folds, at_once=2, threads=1) as beside:
        beside.start(1)                 # while this process fits all images
        beside.finish(watcher)          # then as many as may run at once

Small networks gain little from a second thread: on two cores two fits of one thread each take about
seven eighths of the time of one after the other with two. A fit depends on the number of its
threads (rounding), not on what runs beside it.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from detectors.training.fit import Fit
from detectors.training.fold import FoldTask
from detectors.training.fold_process import FAILED, SAID, STEPS, STOPPED, order
from detectors.training.progress import Watcher
from pipeline import errors

# Seconds between two looks at the folds, and those that a fit has to end its step and save.
LOOK, PATIENCE = 0.2, 60.0
# Fits at once: each needs up to 1.3 GB.
AT_MOST = 8


def fits_at_once(fit: Fit, fits: int, threads: int) -> int:
    """How many of that many fits run side by side; 1 where they follow each other.

    That is on a GPU, without steps, and where a detector beside finds parts: what such a fit
    computes, the first has computed for all of them (`Detector.inherit`).
    """
    shares = bool(getattr(fit.recipe.settings, "beside", "")) or not fit.recipe.schedule.steps
    if shares or fit.compute.device.type != "cpu":
        return 1
    return shared_by(fits, threads)


def shared_by(fits: int, threads: int) -> int:
    """How many of that many fits share the threads at a time."""
    # Fits that would come last, and leave threads idle for as long as they take, run with the
    # others instead. With a single thread nothing is gained.
    at_once = fits if threads > 1 and fits < 2 * threads else threads
    return max(1, min(at_once, fits, AT_MOST))


class FoldsBeside:
    """Processes of folds, at most `at_once`, with `threads` each; leaving the block ends them."""

    def __init__(self, folds: Sequence[FoldTask], at_once: int, threads: int) -> None:
        self.folds, self.at_once, self.threads = folds, at_once, threads
        self.steps = [0] * len(folds)
        self._left: queue.SimpleQueue[FoldTask] = queue.SimpleQueue()
        for fold in folds:
            self._left.put(fold)
        self._said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failures: list[Exception] = []
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._hosts: list[threading.Thread] = []
        self._ending = threading.Event()
        # Held while a process is told something: its order comes first, then what stops it.
        self._telling = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs; every fit saves its state after its step."""
        with self._telling:
            self._ending.set()
            for process in list(self._running.values()):
                _tell(process, b"s")
        until = time.monotonic() + PATIENCE
        for host in self._hosts:
            host.join(max(0.0, until - time.monotonic()))
        # What judges images has nothing to save: its steps are on the disk.
        for process in list(self._running.values()):
            process.kill()
        for host in self._hosts:
            host.join()

    @property
    def failure(self) -> Exception | None:
        """What a fold has raised, if any has failed so far."""
        return self._failures[0] if self._failures else None

    def start(self, hosts: int) -> None:
        """Let so many more folds run at once."""
        for _ in range(min(hosts, len(self.folds))):
            host = threading.Thread(target=self._host, daemon=True)
            host.start()
            self._hosts.append(host)

    def finish(self, watcher: Watcher, title: str, steps: int) -> None:
        """Wait for all folds, of `steps` steps each.

        Raises what a fold raised, and KeyboardInterrupt when the watcher wants to stop.
        """
        self.start(self.at_once - len(self._hosts))
        watcher.begin(title, steps * len(self.folds), sum(self.steps))
        try:
            while (alive := [h for h in self._hosts if h.is_alive()]) and not self._failures:
                alive[0].join(LOOK)
                while not self._said.empty():
                    watcher.say(self._said.get())
                watcher.step(sum(self.steps), {})
                if watcher.wants_to_stop():
                    raise KeyboardInterrupt
            # A signal to all processes ends folds, too.
            if watcher.wants_to_stop():
                raise KeyboardInterrupt
        finally:
            watcher.end()
        if self.failure:
            raise self.failure

    def _host(self) -> None:
        """Run one fold after the other until none is left; a thread."""
        while not (self._ending.is_set() or self._failures):
            try:
                fold = self._left.get_nowait()
            except queue.Empty:
                return
            try:
                self._run(fold)
            except Exception as error:
                self._failures.append(error)

    def _run(self, fold: FoldTask) -> None:
        process = subprocess.Popen(
            # The modules of this process, wherever they come from, and none of the working folder.
            [sys.executable, "-P", "-m", "detectors.training.fold_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
            # Ctrl-C reaches the training alone, which tells its folds.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        failure: Exception | None = None
        with self._telling:
            self._running[fold.number] = process
            # Those that were running have been told.
            if self._ending.is_set():
                process.kill()
            _tell(process, order(fold, self.threads))
        for line in process.stdout:
            ((key, value),) = json.loads(line).items()
            if key == STEPS:
                self.steps[fold.number] = value
            elif key == SAID:
                self._said.put(f"fold {fold.number + 1} of {fold.count}: {value}")
            elif key == FAILED:
                failure = _failed(*value)
        code = process.wait()
        del self._running[fold.number]
        with suppress(OSError):
            process.stdin.close()
        if failure is None and code and not self._ending.is_set():
            failure = _died(fold, code)
        if failure is not None:
            raise failure


def _tell(process: subprocess.Popen[bytes], what: bytes) -> None:
    """Write to a process; one that has ended is told by its exit code."""
    assert process.stdin is not None
    # A closed file is a ValueError.
    with suppress(OSError, ValueError):
        process.stdin.write(what)
        process.stdin.flush()


def _failed(name: str, arguments: list[Any], transient: bool) -> Exception:
    """The error that a fold has told."""
    if name == "OSError":
        return OSError(*arguments)
    failure: errors.AnomalysmithError = getattr(errors, name)(*arguments)
    failure.transient = transient
    return failure


def _died(fold: FoldTask, code: int) -> Exception:
    """The error of a fold that ended without a word."""
    name = f"the fit of fold {fold.number + 1} of {fold.count}"
    again = "the same training continues where it was"
    if code == -signal.SIGKILL:
        return errors.UserError(
            f"{name} was killed, as the system does when memory is short; {again}, with "
            "`--threads 1` one fit at a time"
        )
    if code < 0 or code == STOPPED:
        return errors.UserError(f"{name} was stopped from outside; {again}")
    return RuntimeError(f"{name} ended with exit code {code}; its traceback is above")
