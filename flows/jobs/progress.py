"""What a person sees while a run goes on: one line on standard error, and nothing anywhere else."""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.generation.analysis import Ledger


class Watcher:
    """Is told what happens; this one says nothing."""

    def say(self, text: str) -> None:
        """A remark that stays on the screen."""

    def skipped(self, failure: Mapping[str, str]) -> None:
        """One input that could not be used."""

    def studying(self, category: str, images: int) -> None:
        """The normals that show what is normal are looked at."""

    def studied(self, done: int) -> None:
        """So many of them are done."""

    def begin(self, category: str, images: int, ledger: "Ledger") -> None:
        """Forging starts; `ledger` holds what the cache had already."""

    def image(self, ledger: "Ledger") -> None:
        """One more image is done."""

    def packing(self, category: str, images: int) -> None:
        """Packing starts."""

    def packed(self, done: int) -> None:
        """So many images are packed."""

    def end(self) -> None:
        """The stage is over."""


class Bar(Watcher):
    """A tqdm bar on standard error: images, rate, time left, samples accepted and rejected."""

    def __init__(self) -> None:
        self._bar: Any = None

    def say(self, text: str) -> None:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)

    def skipped(self, failure: Mapping[str, str]) -> None:
        name, error = failure["name"], failure["error"]
        self.say(f"skipped {error}" if name in error else f"skipped {name}: {error}")

    def studying(self, category: str, images: int) -> None:
        self._open(f"{category}: studying", images, 0)

    def studied(self, done: int) -> None:
        self._to(done)

    def begin(self, category: str, images: int, ledger: "Ledger") -> None:
        self._open(f"{category}: forging", images, ledger.images)

    def image(self, ledger: "Ledger") -> None:
        self._bar.set_postfix(
            {"accepted": ledger.accepted, "rejected": ledger.rejected}, refresh=False
        )
        self._to(ledger.images)

    def packing(self, category: str, images: int) -> None:
        self._open(f"{category}: packing", images, 0)

    def packed(self, done: int) -> None:
        self._to(done)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _open(self, title: str, total: int, done: int) -> None:
        from tqdm import tqdm

        self.end()
        # A log file gets a line now and then, a terminal one that moves.
        pause = 1.0 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=total, initial=done, desc=title, unit="img", file=sys.stderr, mininterval=pause
        )

    def _to(self, done: int) -> None:
        self._bar.update(done - self._bar.n)
