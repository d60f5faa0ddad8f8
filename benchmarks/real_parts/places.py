"""Where parts lie: drawn places and turns without any overlap, apart or pushed together.

Shapes: H, W canvas (square); h, w part; 3 colour (RGB, float32); 4 box as x0 y0 x1 y1.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from benchmarks.real_parts.cutouts import Cutout

# Gap between parts that do not touch, and to the edge, as shares of the canvas.
GAP, MARGIN = 0.02, 0.015
# Gap to the walls of a compartment, a share of the canvas.
WALL_GAP = 0.012
# Tries for one part, and for the whole arrangement, before it starts anew.
TRIES, STARTS = 200, 200


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A part turned by `angle` degrees about its centre, which lies at (x, y) on the canvas."""

    part: Cutout
    x: float
    y: float
    angle: float

    def painted(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Colour (H, W, 3) and alpha (H, W) float32 on an empty canvas of `size` pixels."""
        height, width = self.part.alpha_hw.shape
        turn_23 = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.angle, 1.0)
        turn_23[:, 2] += (self.x - (width - 1) / 2, self.y - (height - 1) / 2)
        colour_HW3 = cv2.warpAffine(
            self.part.colour_hw3.astype(np.float32), turn_23, (size, size),
            flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        return colour_HW3, cv2.warpAffine(self.part.alpha_hw, turn_23, (size, size))

    def mask_HW(self, size: int) -> np.ndarray:
        """Where any of it is, (H, W) bool."""
        return self.painted(size)[1] > 0.02


def arrange(
    parts: list[tuple[Cutout, np.ndarray | None]],
    size: int,
    touching: bool,
    rng: np.random.Generator,
) -> list[Placed]:
    """A place for each part, inside its box where it has one; never overlapping.

    With `touching`, every part but the first touches another one. RuntimeError when the parts do
    not fit.
    """
    # Large parts first: they fit only while there is room.
    order = sorted(range(len(parts)), key=lambda i: -parts[i][0].alpha_hw.size)
    for _ in range(STARTS):
        placed: dict[int, Placed] = {}
        taken_HW = np.zeros((size, size), np.uint8)
        for index in order:
            part, box_4 = parts[index]
            push = touching and bool(placed)
            place = _place(part, box_4, taken_HW, push, rng)
            if place is None:
                break
            placed[index] = place
            taken_HW |= place.mask_HW(size).astype(np.uint8)
        else:
            return [placed[index] for index in range(len(parts))]
    raise RuntimeError(f"{len(parts)} parts do not fit on {size} px")


def _place(
    part: Cutout, box_4: np.ndarray | None, taken_HW: np.ndarray, push: bool,
    rng: np.random.Generator,
) -> Placed | None:  # fmt: skip
    """A free place for the part, or None after TRIES; with `push` it touches what is there."""
    size = taken_HW.shape[0]
    margin = MARGIN * size
    if box_4 is None:
        low_2, high_2 = np.array([margin, margin]), np.array([size - margin, size - margin])
    else:
        # Off the walls, which have a slope.
        low_2, high_2 = box_4[:2] + WALL_GAP * size, box_4[2:] - WALL_GAP * size
    gap = round(GAP * size)
    # Distance of every pixel to the nearest part.
    distance_HW = cv2.distanceTransform((taken_HW == 0).astype(np.uint8), cv2.DIST_L2, 5)
    for _ in range(TRIES):
        angle = rng.uniform(0, 360)
        offsets_M2 = _outline(Placed(part, 0, 0, angle))
        first_2, last_2 = low_2 - offsets_M2.min(0), high_2 - offsets_M2.max(0)
        if (first_2 > last_2).any():
            continue
        start = rng.uniform(first_2, last_2)
        if not push:
            if _clearance(offsets_M2 + start, distance_HW) >= gap:
                return Placed(part, float(start[0]), float(start[1]), angle)
            continue
        found = _pushed(offsets_M2, start, taken_HW, distance_HW, rng)
        if found is not None and (first_2 <= found).all() and (found <= last_2).all():
            return Placed(part, float(found[0]), float(found[1]), angle)
    return None


def _pushed(
    offsets_M2: np.ndarray, start: np.ndarray, taken_HW: np.ndarray, distance_HW: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray | None:  # fmt: skip
    """From a free start straight towards a part that lies there, until they touch."""
    if _clearance(offsets_M2 + start, distance_HW) < 2:
        return None
    ys, xs = np.nonzero(taken_HW)
    pick = int(rng.integers(len(xs)))
    way = np.array([xs[pick], ys[pick]]) - start
    way /= max(float(np.hypot(*way)), 1e-6)
    at = start
    while (clearance := _clearance(offsets_M2 + at, distance_HW)) > 2:
        # As far as nothing can be in between.
        at = at + way * max(0.5, clearance - 2)
        if ((at < 0) | (at > len(taken_HW))).any():
            return None
    # Half a pixel at a time in the last step, so it may have come too near.
    return at if clearance > 0.5 else None


def _outline(part: Placed) -> np.ndarray:
    """Positions (x, y) of the pixels on its outline relative to its centre, (M, 2)."""
    side = int(1.5 * part.part.length) + 4
    middle = side / 2
    mask_hw = Placed(part.part, middle, middle, part.angle).mask_HW(side).astype(np.uint8)
    outlines, _ = cv2.findContours(mask_hw, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return np.concatenate([outline[:, 0] for outline in outlines]).astype(np.float64) - middle


def _clearance(points_M2: np.ndarray, distance_HW: np.ndarray) -> float:
    """The smallest distance of the points to any part."""
    last = len(distance_HW) - 1
    xs, ys = np.clip(np.rint(points_M2), 0, last).astype(int).T
    return float(distance_HW[ys, xs].min())
