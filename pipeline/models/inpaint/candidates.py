"""Several inpainters for one hole: all propose, and the fill nearest to normal images is kept.

PatchMatch copies texture that a network smears, and a network continues shapes that PatchMatch
tears; which of the two is right differs from hole to hole. What "near to normal images" means is
not known here: the caller passes a function that measures it (the gate's patch distance), and from
which distance a fill is good enough not to try another one (decision 0030).

Shapes: H, W image; 3 colour (RGB, uint8).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.models.inpaint.base import Inpainter, in_groups
from pipeline.records import bounding_box

# (filled_HW3 uint8, hole_HW bool) -> distance of the filled hole to normal images, lower is better.
FillDistance = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, slots=True)
class FillChoice:
    """Which candidate filled a hole, and the distance of every candidate that was compared.

    `distances` is empty where nothing could be compared: the first candidate was taken.
    """

    inpainter: str
    distances: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"inpainter": self.inpainter, "distances": dict(self.distances)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "FillChoice":
        return cls(data["inpainter"], dict(data["distances"]))


@dataclass(frozen=True, slots=True, eq=False)
class CandidateInpainter:
    """Inpainters by name, the cheapest first; called like one of them, it is the first."""

    inpainters: Mapping[str, Inpainter]

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        first = next(iter(self.inpainters.values()))
        return in_groups(first, image_HW3, hole_HW, avoid_HW)

    def choose(
        self,
        image_HW3: np.ndarray,
        hole_HW: np.ndarray,
        avoid_HW: np.ndarray | None,
        distance: FillDistance | None,
        near_enough: float | None = None,
    ) -> tuple[np.ndarray, FillChoice]:
        """The nearest candidate's image and the choice; the first one's without `distance`.

        Of equally near candidates the first one wins. Candidates after one that is at most
        `near_enough` away are not run. The answer depends on the arguments alone.
        """
        if distance is None:
            return self(image_HW3, hole_HW, avoid_HW), FillChoice(next(iter(self.inpainters)))
        fills: dict[str, np.ndarray] = {}
        found: dict[str, float] = {}
        for name, inpaint in self.inpainters.items():
            filled_HW3 = in_groups(inpaint, image_HW3, hole_HW, avoid_HW)
            fills[name] = inside(filled_HW3, image_HW3, hole_HW)
            # Rounded before they are compared, so that the record alone shows why one was kept.
            found[name] = round(float(distance(fills[name], hole_HW)), 5)
            if near_enough is not None and found[name] <= near_enough:
                break
        nearest = min(found, key=lambda name: found[name])
        return fills[nearest], FillChoice(nearest, found)


def inside(filled_HW3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The fill inside the hole and the image outside: some inpainters alter every pixel."""
    result_HW3 = image_HW3.copy()
    x0, y0, x1, y1 = bounding_box(hole_HW)
    box = np.s_[y0:y1, x0:x1]
    np.copyto(result_HW3[box], filled_HW3[box], where=hole_HW[box][..., None])
    return result_HW3
