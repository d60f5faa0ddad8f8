"""Progress bars of all commands: one line on standard error, through one door to tqdm."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from detectors.training import progress as training
from flows.jobs import progress as generation

if TYPE_CHECKING:
    from pipeline.generation.outcome import Ledger

STOPS = (signal.SIGINT, signal.SIGTERM)


def say(text: str) -> None:
    """A remark on standard error that does not tear the bar apart."""
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
        # A log file gets a line now and then, a terminal one that moves.
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit=self.unit, file=sys.stderr,
            mininterval=0.5 if terminal else 10.0, dynamic_ncols=terminal, **options,
        )  # fmt: skip

    def to(self, done: int, beside: Mapping[str, Any] | None = None) -> None:
        """So many are done; `beside` stands behind the bar."""
        if beside is not None:
            self._bar.set_postfix(beside, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


@contextmanager
def counting(title: str, unit: str, **options: Any) -> Iterator[Callable[[int, int | None], None]]:
    """A bar to be called with what is done and, where it is known, how much there is in all."""
    line = Line(unit)
    line.open(title, **options)

    def show(done: int, total: int | None) -> None:
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

    def say(self, text: str) -> None:
        say(text)

    def skipped(self, failure: Mapping[str, str]) -> None:
        name, error = failure["name"], failure["error"]
        say(f"skipped {error}" if name in error else f"skipped {name}: {error}")

    def calibrating(self, category: str, images: int) -> None:
        self._line.open(f"{category}: calibrating the gate", images)

    def calibrated(self, done: int) -> None:
        self._line.to(done)

    def begin(self, category: str, images: int, ledger: "Ledger") -> None:
        self._line.open(f"{category}: generating", images, ledger.images)

    def image(self, ledger: "Ledger") -> None:
        counts = {"accepted": ledger.accepted, "rejected": ledger.rejected}
        self._line.to(ledger.images, counts)

    def packing(self, category: str, images: int) -> None:
        self._line.open(f"{category}: packing", images)

    def packed(self, done: int) -> None:
        self._line.to(done)

    def end(self) -> None:
        self._line.close()


class StepBar(training.Watcher):
    """While a detector trains or scores: what is done, losses, rate, time left."""

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
    """In the other processes of torchrun the first Ctrl-C or kill is the first process's business.

    It saves the step in work and leaves; a second signal ends this process, too.
    """
    before: dict[signal.Signals, Any] = {}

    def once(number: int, _: object) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before |= {number: signal.signal(number, once) for number in STOPS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class StoppableBar(StepBar):
    """A bar under which Ctrl-C, or a kill, waits for the end of a step, whose state is saved.

    A second one does not wait. While the bar is not open, and in threads, both do what they always
    do. Use it as a context.
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
        # Before the bar is seen: whoever sees it may count on the step in work being kept.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in STOPS}
        self._line.open(title, total, done)

    def wants_to_stop(self) -> bool:
        return self._asked

    def end(self) -> None:
        self._let_go()
        super().end()

    def _ask(self, *_: object) -> None:
        self._asked = True
        self._let_go()
        say("stopping after this step; once more to stop at once")

    def _let_go(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
