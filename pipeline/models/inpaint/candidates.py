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
from pipeline.models.inpaint.plain import plain_surface
from pipeline.models.inpaint.repeated import RepeatedInpainter
from pipeline.records import bounding_box

# Share of the image from which a hole is large: PatchMatch takes three times as long as a network.
LARGE = 0.1
# Multiple of `near_enough` beyond which no other fill is near either (decision 0030).
FAR = 2.0
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
    """Inpainters by name, the cheapest first; called like one of them, it is the first that can
    fill the hole."""

    inpainters: Mapping[str, Inpainter]

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        return in_groups(self._usable(hole_HW)[0][1], image_HW3, hole_HW, avoid_HW)

    def _usable(self, hole_HW: np.ndarray) -> list[tuple[str, Inpainter]]:
        """The candidates that can fill a hole, in their order."""
        return [
            (name, inpaint)
            for name, inpaint in self.inpainters.items()
            if not isinstance(inpaint, RepeatedInpainter) or inpaint.knows(hole_HW)
        ]

    def choose(
        self,
        image_HW3: np.ndarray,
        hole_HW: np.ndarray,
        avoid_HW: np.ndarray | None,
        distance: FillDistance | None,
        near_enough: float | None = None,
        bare: bool = False,
    ) -> tuple[np.ndarray, FillChoice]:
        """The nearest candidate's image and the choice; the first usable one's without `distance`.

        Of equally near candidates the first one wins. Candidates after one that is at most
        `near_enough` away are not run, and that one is kept. A large hole whose surroundings are
        neither plain nor a known pattern is shown to the last candidate first, a network, which
        costs the same for any hole; where its fill is `FAR` away, no other is tried. Nor is one in
        a `bare` hole, which holds no object, where the first fill is. A large hole in a plain
        surface is filled by the first candidate, and no distance is measured. The answer depends
        on the arguments alone.
        """
        if distance is None:
            return self(image_HW3, hole_HW, avoid_HW), FillChoice(self._usable(hole_HW)[0][0])
        order = self._usable(hole_HW)
        # What is known to be there costs least of all.
        known = isinstance(order[0][1], RepeatedInpainter)
        asked = None
        if near_enough is not None and not known and _is_large(hole_HW):
            if _is_plain(image_HW3, hole_HW, avoid_HW):
                name, inpaint = order[0]
                filled_HW3 = in_groups(inpaint, image_HW3, hole_HW, avoid_HW)
                return inside(filled_HW3, image_HW3, hole_HW), FillChoice(name)
            order, asked = [order[-1], *order[:-1]], order[-1][0]
        fills: dict[str, np.ndarray] = {}
        found: dict[str, float] = {}
        for name, inpaint in order:
            filled_HW3 = in_groups(inpaint, image_HW3, hole_HW, avoid_HW)
            fills[name] = inside(filled_HW3, image_HW3, hole_HW)
            # Rounded before they are compared, so that the record alone shows why one was kept.
            found[name] = round(float(distance(fills[name], hole_HW)), 5)
            if near_enough is None:
                continue
            if name == asked and len(order) > 1:
                # A network blurs, so that its fill is not kept before others were tried.
                if found[name] > FAR * near_enough:
                    break
            elif found[name] <= near_enough:
                return fills[name], FillChoice(name, found)
            # The image itself should show there again, and this is far from any normal one.
            if bare and found[name] > FAR * near_enough:
                break
        nearest = min(found, key=lambda name: found[name])
        return fills[nearest], FillChoice(nearest, found)


def _is_large(hole_HW: np.ndarray) -> bool:
    return bool(np.count_nonzero(hole_HW) >= LARGE * hole_HW.size)


def _is_plain(image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None) -> bool:
    """True for a hole in a plain surface, which costs nothing."""
    free_HW = ~hole_HW if avoid_HW is None else ~(hole_HW | avoid_HW)
    return plain_surface(image_HW3, hole_HW, free_HW) is not None


def inside(filled_HW3: np.ndarray, image_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
    """The fill inside the hole and the image outside: some inpainters alter every pixel."""
    result_HW3 = image_HW3.copy()
    x0, y0, x1, y1 = bounding_box(hole_HW)
    box = np.s_[y0:y1, x0:x1]
    np.copyto(result_HW3[box], filled_HW3[box], where=hole_HW[box][..., None])
    return result_HW3
