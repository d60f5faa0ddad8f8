"""Progress bars of all commands: one line on standard error. Only this module uses tqdm."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from detectors.training import progress as training
from flows.jobs import progress as generation
from pipeline.utils.repeated import OnceEach

if TYPE_CHECKING:
    from pipeline.generation.outcome import Ledger

# Ctrl-C, and what batch systems send before they kill.
STOPS = (signal.SIGINT, signal.SIGTERM)


def say(text: str) -> None:
    """Print a remark on standard error without breaking the bar."""
    from tqdm import tqdm

    tqdm.write(text, file=sys.stderr)


class Line:
    """One tqdm bar at a time; opening another one closes it."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._bar: Any = None

    def open(self, title: str, total: int | None = None, done: int = 0, **options: Any) -> None:
        from tqdm import tqdm

        self.close()
        # Every update looks at the time (`miniters`), so tqdm needs no thread that does: beside
        # one the process could not be forked.
        tqdm.monitor_interval = 0
        # A log file gets a line every ten seconds, a terminal a moving one.
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit=self.unit, file=sys.stderr,
            mininterval=0.5 if terminal else 10.0, miniters=1, dynamic_ncols=terminal, **options,
        )  # fmt: skip

    def to(self, done: int, beside: Mapping[str, Any] | None = None) -> None:
        """So many are done; `beside` is shown after the bar."""
        if beside is not None:
            self._bar.set_postfix(beside, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def counting(title: str, unit: str, **options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A bar as a function of what is done and, if known, of how much there is in all."""
    # The total is set by the first call.
    line = Line(unit)
    line.open(title, **options)

    def show(done: int, total: int | None) -> None:
        # The total may become known only on the way, as in a download.
        line._bar.total = total or None
        line.to(done)

    try:
        yield show
    finally:
        line.close()


class ImageBar(generation.Watcher):
    """While images are generated: rate, time left, samples accepted and rejected."""

    def __init__(self) -> None:
        self._line = Line("img")
        self._skipped = OnceEach()

    def say(self, text: str) -> None:
        say(text)

    def inputs_skipped(self, failures: Sequence[Mapping[str, str]]) -> None:
        for line in self._skipped.lines((f["name"], f["error"]) for f in failures):
            say(f"skipped {line}")

    def calibration_started(self, category: str, images: int) -> None:
        self._line.open(f"{category}: calibrating the gate", images)

    def calibration_progress(self, done: int) -> None:
        self._line.to(done)

    def generation_started(self, category: str, images: int, ledger: "Ledger") -> None:
        self._line.open(f"{category}: generating", images, ledger.images)

    def image_done(self, ledger: "Ledger") -> None:
        counts = {"accepted": ledger.accepted, "rejected": ledger.rejected}
        self._line.to(ledger.images, counts)

    def packing_started(self, category: str, images: int) -> None:
        self._line.open(f"{category}: packing", images)

    def packing_progress(self, done: int) -> None:
        self._line.to(done)

    def stage_finished(self) -> None:
        self._line.close()


class StepBar(training.Watcher):
    """While a detector is trained or evaluated: steps done, losses, rate, time left."""

    def __init__(self, unit: str = "step") -> None:
        self._line = Line(unit)

    def say(self, text: str) -> None:
        say(text)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self._line.open(title, total, done)

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        self._line.to(done, {name: f"{value:.3g}" for name, value in losses.items()})

    def end(self) -> None:
        self._line.close()


@contextmanager
def first_decides() -> Iterator[None]:
    """In torchrun's other processes, ignore the first Ctrl-C or kill: the first process handles it.

    That one saves the current step and ends the training; a second signal ends this process, too.
    """
    before: dict[signal.Signals, Any] = {}

    # The first signal restores the handlers, so the second one acts as usual.
    def once(number: int, _: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    # Installed for the length of the training only.
    before |= {number: signal.signal(number, once) for number in STOPS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class StoppableBar(StepBar):
    """A bar during which Ctrl-C, or a kill, waits for the end of a step, whose state is saved.

    A second one does not wait. While the bar is not open, and in other threads than the main one,
    signals have their usual effect. Use it as a context manager.
    """

    def __init__(self, unit: str = "step") -> None:
        super().__init__(unit)
        self._asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StoppableBar":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.end()
        # Before the bar is shown: once it is visible, an interrupt must keep the current step. Only
        # the main thread may set signal handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in STOPS}
        self._line.open(title, total, done)

    def wants_to_stop(self) -> bool:
        return self._asked

    def end(self) -> None:
        self._let_go()
        super().end()

    # A signal handler: it only sets a flag, which the training reads between steps.
    def _ask(self, *_: object) -> None:
        self._asked = True
        self._let_go()
        say("stopping after this step; press Ctrl-C again to stop at once")

    def _let_go(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
