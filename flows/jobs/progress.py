"""The interface through which a generation run reports its progress; nothing here prints."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

# At run time the pipeline is imported only when a pixel has to be computed.
if TYPE_CHECKING:
    from pipeline.generation.outcome import Ledger


class Watcher:
    """Receives progress; this base class ignores it. The commands show a bar with rate and ETA.

    Stages are calibration, generation and packing. Each reports its start, its progress, and its
    end, also when it fails.
    """

    def say(self, text: str) -> None:
        """A remark that stays on the screen."""

    def inputs_skipped(self, failures: Sequence[Mapping[str, str]]) -> None:
        """Inputs, as `name`, could not be used, with `error` as the reason."""

    def calibration_started(self, category: str, images: int) -> None:
        """So many normal images are about to be analysed for the gate."""

    def calibration_progress(self, done: int) -> None:
        """So many of them are done."""

    def generation_started(self, category: str, images: int, ledger: "Ledger") -> None:
        """Generation starts; `ledger` counts the images that the cache already has."""

    def image_done(self, ledger: "Ledger") -> None:
        """One more image is done."""

    def packing_started(self, category: str, images: int) -> None:
        """Packing of so many images starts."""

    def packing_progress(self, done: int) -> None:
        """So many images are packed."""

    def stage_finished(self) -> None:
        """The stage is over."""
