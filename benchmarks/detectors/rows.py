"""Rows of the detector benchmark: a value, its baseline's, their ratio and the claim."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Timing:
    """One measured ratio: our value as a share of the baseline's, and the limit that is claimed.

    Without a claim it is for information.
    """

    what: str
    precision: str
    batch: int
    value: float
    unit: str
    baseline: str
    baseline_value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def share(self) -> float:
        return self.value / self.baseline_value

    @property
    def holds(self) -> bool:
        # A row without a claim always holds.
        low, high = self.at_least or float("-inf"), self.at_most or float("inf")
        return low <= self.share <= high

    def to_json(self) -> dict[str, Any]:
        """The row for `--json`. The keys are stable: files of different dates are compared."""
        return {
            "what": self.what, "precision": self.precision, "batch": self.batch,
            "value": self.value, "unit": self.unit,
            # Older files call the baseline a yardstick.
            "yardstick": self.baseline, "yardstick_value": self.baseline_value,
            "at_most": self.at_most, "at_least": self.at_least,
            "share": self.share, "holds": self.holds,
        }  # fmt: skip

    def __str__(self) -> str:
        claimed = "–"
        if self.at_most is not None:
            claimed = f"≤ {self.at_most:g}"
        if self.at_least is not None:
            claimed = f"≥ {self.at_least:g}"
        verdict = "–" if claimed == "–" else "yes" if self.holds else "NO"
        cells = (
            self.what, self.precision, self.batch, f"{self.value:.4g} {self.unit}",
            self.baseline, f"{self.baseline_value:.4g} {self.unit}", f"{self.share:.3g}",
            claimed, verdict,
        )  # fmt: skip
        return f"| {' | '.join(map(str, cells))} |"


# Columns of the table, in the order of `Timing.__str__`.
HEAD = ("what", "precision", "batch", "value", "baseline", "its value", "share", "claimed",
        "holds")  # fmt: skip


def left_out(what: str) -> None:
    """Report in the table what could not be measured here."""
    print(f"| left out: {what} |" + " |" * (len(HEAD) - 1), flush=True)
