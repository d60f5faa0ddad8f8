"""What a person sees while a run goes on: one line on standard error, and nothing anywhere else."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.generation.outcome import Ledger


class Watcher:
    """Is told what happens; this one says nothing."""

    def say(self, text: str) -> None:
        """A remark that stays on the screen."""

    def skipped(self, failure: Mapping[str, str]) -> None:
        """One input that could not be used."""

    def calibrating(self, category: str, images: int) -> None:
        """The normals that show what is normal are looked at."""

    def calibrated(self, done: int) -> None:
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
