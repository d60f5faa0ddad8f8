"""What a person sees while a detector trains or is measured: one line on standard error."""

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from detectors.training.progress import Watcher

STOPS = (signal.SIGINT, signal.SIGTERM)


class Bar(Watcher):
    """A tqdm bar on standard error: what is done, losses, rate, time left."""

    def __init__(self, unit: str = "step") -> None:
        self.unit = unit
        self._bar: Any = None

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def begin(self, title: str, total: int, done: int = 0) -> None:
        self.end()
        self._open(title, total, done)

    def _open(self, title: str, total: int, done: int) -> None:
        from tqdm import tqdm

        # A log file gets a line now and then, a terminal one that moves.
        terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=self.unit,
            file=sys.stderr,
            mininterval=0.5 if terminal else 10.0,
            dynamic_ncols=terminal,
        )

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        words = {name: f"{value:.3g}" for name, value in losses.items()}
        self._bar.set_postfix(words, refresh=False)
        self._bar.update(done - self._bar.n)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


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


class StoppableBar(Bar):
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
        self._open(title, total, done)

    def wants_to_stop(self) -> bool:
        return self._asked

    def end(self) -> None:
        self._let_go()
        super().end()

    def _ask(self, *_: object) -> None:
        self._asked = True
        self._let_go()
        self.say("stopping after this step; once more to stop at once")

    def _let_go(self) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before = {}
