"""What a training tells whoever watches; nothing here prints."""

from collections.abc import Mapping


class Watcher:
    """Is told what happens; this one says nothing. Command lines show a bar with rate and ETA."""

    def say(self, text: str) -> None:
        """A remark that stays on the screen."""

    def begin(self, title: str, total: int, done: int = 0) -> None:
        """A stage starts: `total` steps, of which a resumed run has `done` already."""

    def step(self, done: int, losses: Mapping[str, float]) -> None:
        """So many steps are done; the terms are means since the last call (every step or fewer)."""

    def end(self) -> None:
        """The stage is over."""

    def wants_to_stop(self) -> bool:
        """Asked between steps; True lets a training save its state and raise KeyboardInterrupt."""
        return False
