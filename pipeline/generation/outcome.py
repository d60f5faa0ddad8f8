"""Results of the images of a run: one outcome per image, and their sum."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one image: counts of its attempts, or why it could not be used.

    Seconds are those of a worker, zero for what came from the cache.
    """

    name: str
    cached: bool = False
    accepted: int = 0
    rejected: int = 0
    error: str = ""
    analysis_seconds: float = 0.0
    samples_seconds: float = 0.0

    @classmethod
    def of(cls, name: str, attempts: Sequence[dict[str, Any]], *, cached: bool) -> "Outcome":
        """From the facts of an image's attempts, as the stage cache keeps them."""
        # Accepted attempts are those without a rejection reason.
        counts = Counter(not attempt["reason"] for attempt in attempts)
        return cls(name, cached, counts[True], counts[False])

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per stage."""
        return {"analysis": self.analysis_seconds, "samples": self.samples_seconds}


@dataclass(slots=True)
class Ledger:
    """The outcomes of a run, added up as they come in; progress bars show them."""

    # Images that are done, whether generated, cached or failed.
    images: int = 0
    cached: int = 0
    accepted: int = 0
    rejected: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        """Count one image; a failed one is an image, too."""
        self.images += 1
        # Booleans count as 0 or 1.
        self.cached += outcome.cached
        self.accepted += outcome.accepted
        self.rejected += outcome.rejected
        if outcome.error:
            self.failures.append({"name": outcome.name, "error": outcome.error})
