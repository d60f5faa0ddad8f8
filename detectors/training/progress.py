"""The interface through which a training reports its progress; nothing here prints."""

from collections.abc import Mapping


class Watcher:
    """Receives progress; this base class ignores it. The commands show a bar with rate and ETA."""

    def say(self, text: str) -> None:
        """A remark that stays on the screen."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """A stage starts: `total` steps, of which a resumed run has `done` already."""

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        """`done` steps are complete; `losses` are mean terms since the last call."""

    def end(self) -> None:
        """The stage is over."""

    def wants_to_stop(self) -> bool:
        """Queried between steps; True makes a training save its state and raise
        KeyboardInterrupt."""
        return False
