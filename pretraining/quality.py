"""One measured property of a bundled model, and the table in the cards and in `make bench`."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Measure:
    """A value and its aim: at least `aim`, or with `at_most` at most `aim`.

    Without an aim the row is for information only.
    """

    model: str
    what: str
    value: float
    aim: float | None = None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the aim was reached, None without one."""
        if self.aim is None:
            return None
        return self.value <= self.aim if self.at_most else self.value >= self.aim

    def __str__(self) -> str:
        sign = "≤" if self.at_most else "≥"
        aim = "-" if self.aim is None else f"{sign} {self.aim:g}"
        # Capitals make a missed aim stand out in the table.
        met = {True: "yes", False: "NO", None: "-"}[self.met]
        return f"| {self.model} | {self.what} | {self.value:.3f} | {aim} | {met} |"


def print_measures(measures: Iterable[Measure]) -> None:
    """A Markdown table, one row each."""
    print("| model | measure | value | aim | met |\n|---|---|---|---|---|")
    for measure in measures:
        print(measure, flush=True)


def overlap(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    """Intersection over union of two bool masks; 1 when both are empty."""
    # Two empty masks agree: 1 instead of a division by zero.
    either = np.count_nonzero(one_HW | other_HW)
    return np.count_nonzero(one_HW & other_HW) / either if either else 1.0
