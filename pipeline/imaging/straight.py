"""Straight lines that run on at both sides of a hidden region: walls, ridges, printed lines.

Along a line an image hardly changes, so what a part or a hole hides of it is told by what lies
before and behind it. Rows are lines of one direction; a row is an edge where colour changes across
it in the same way on both sides of the region, and still does farther out on one of them. Texture
changes to and fro along a row, which its mean does not see.

Shapes: h, w window; 3 colour (CIELAB, float32); R rows of one direction, Z places along a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.imaging.products import lengths, products

# Lengths in pixels at 256: how far a row is looked at on each side, and how much of that is near.
ZONE, NEAR = 18.0, 6.0
# Change of colour (CIELAB per pixel at 256): of pixels whose direction counts, and across an edge;
# and how much more than the two sides of the region differ by.
TOLD, EDGE, SURER = 1.5, 1.0, 2.5
# Cosine of the changes of an edge on its two sides.
ALIKE = 0.8
# Directions in degrees: how far two are apart, how many are looked at, and how much more often
# than others one occurs.
APART, DIRECTIONS, OFTEN = 12, 3, 2.0
# Pixels at 256 by which a line may be off where it comes out again; rows beside an edge that
# belong to it.
SKEW, FOOT = 3.0, 2.0
# Rows by which the two sides may differ without being looked at again.
STRAIGHT = 0.15
# CIELAB distance of a row on both sides up to which it is one row.
SAME = 8.0
# The same for a row that runs on, on one side.
SAME_ON = 5.0
# Rows in pixels at 256 over which the widest place of the region counts.
BROADER = 6.0


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines of one direction beside or under a hidden region.

    `expected_hw3` is what the window shows if every row runs on straight, known in `beyond_hw`
    (bool): from the first line on, seen from the middle of the region. `past_hw` is all that lies
    there, known or not. `noise` is how much a pixel deviates from its row (CIELAB).
    """

    expected_hw3: np.ndarray
    beyond_hw: np.ndarray
    past_hw: np.ndarray
    noise: float


def lines_beside(
    lab_hw3: np.ndarray,
    hidden_hw: np.ndarray,
    known_hw: np.ndarray,
    px: float,
    foot: float = FOOT,
    broader: float = BROADER,
) -> Iterator[Lines]:
    """The lines that run on at both sides of a hidden region, one by one direction.

    `known_hw` is where the background is seen, and `px` what a pixel at 256 is here. `foot` and
    `broader` are pixels at 256: rows before the first line that count as beyond it, and those over
    which the widest place of the region counts.
    """
    known_hw = np.ascontiguousarray(known_hw & ~hidden_hw)
    for degrees in _directions(lab_hw3, known_hw, px):
        found = _lines(lab_hw3, hidden_hw, known_hw, degrees, px, foot, broader)
        if found is not None:
            yield found


def _directions(lab_hw3: np.ndarray, known_hw: np.ndarray, px: float) -> list[float]:
    """The directions across the most frequent edges, in degrees from x towards y."""
    lightness_hw = np.ascontiguousarray(lab_hw3[..., 0])
    along_hw, down_hw = (
        cv2.Sobel(lightness_hw, cv2.CV_32F, *axis, scale=px / 8) for axis in ((1, 0), (0, 1))
    )
    step_hw = cv2.magnitude(along_hw, down_hw)
    whole_hw = cv2.erode(known_hw.view(np.uint8), np.ones((3, 3)), borderValue=0) > 0
    told_hw = whole_hw & (step_hw >= TOLD)
    step_R = step_hw[told_hw]
    if not len(step_R):
        return []
    degrees_R = cv2.phase(along_hw[told_hw], down_hw[told_hw], angleInDegrees=True).ravel()
    often_180 = np.bincount(degrees_R.astype(np.int64) % 180, step_R, 180)
    # Smoothed by a few degrees, all around.
    often_180 = np.convolve(np.pad(often_180, 2, mode="wrap"), (1, 2, 3, 2, 1), "valid")
    usual, found = float(often_180.mean()), list[float]()
    while len(found) < DIRECTIONS and often_180.max() >= OFTEN * usual:
        best = int(often_180.argmax())
        found.append(best + 0.5)
        often_180[np.arange(best - APART, best + APART + 1) % 180] = 0
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Rows of one direction and what they show before and behind the region.

    `across_2` and `along_2` are unit vectors (x, y), row 0 lies at `first`, both measured from
    the window's corner; the region lies between `ends_2R` of a row, and its own rows are `own`.
    Colours `near_2R3` and `far_2R3`, and where they are known. How far places are off the
    lightness of their rows, and which of them are near.
    """

    across_2: np.ndarray
    along_2: np.ndarray
    first: float
    own: tuple[int, int]
    ends_2R: np.ndarray
    near_2R3: np.ndarray
    far_2R3: np.ndarray
    near_2R: np.ndarray
    far_2R: np.ndarray
    off_RZ: np.ndarray
    close_RZ: np.ndarray

    @property
    def noise(self) -> float:
        """How much a pixel deviates from its row (CIELAB)."""
        off_P = np.abs(self.off_RZ[self.close_RZ])
        return float(np.median(off_P)) * 1.4826 if len(off_P) else 0.0


def _lines(
    lab_hw3: np.ndarray,
    hidden_hw: np.ndarray,
    known_hw: np.ndarray,
    degrees: float,
    px: float,
    foot: float,
    broader: float,
) -> Lines | None:
    rows = _rows(lab_hw3, hidden_hw, known_hw, degrees, px, broader)
    skew = _skew(rows, round(SKEW * px), px)
    if skew is None:
        return None
    if abs(skew) > STRAIGHT:
        between = float((rows.ends_2R[1] - rows.ends_2R[0]).mean()) + NEAR * px
        # Who turns towards lower rows turns back.
        degrees -= float(np.rad2deg(np.arctan2(skew, between)))
        rows = _rows(lab_hw3, hidden_hw, known_hw, degrees, px, broader)
    edge_R, known_R = _edges(rows, px)
    row_R, middle = np.arange(len(edge_R)), sum(rows.own) / 2
    past_R = np.zeros_like(edge_R)
    # The first edge on either side of the region's middle, and all rows from there on.
    before, behind = (
        np.flatnonzero(edge_R & side_R) for side_R in (row_R <= middle, row_R >= middle)
    )
    if len(before):
        past_R |= row_R <= before.max() + foot * px
    if len(behind):
        past_R |= row_R >= behind.min() - foot * px
    if not past_R.any():
        return None
    one_R3, other_R3 = colour_2R3 = _colours(rows)
    # At an edge a part of a row makes a difference.
    off_R = lengths(one_R3 - other_R3) - lengths(_changes(one_R3 + other_R3)) / 2
    beyond_R = past_R & known_R & (off_R <= SAME)
    if not beyond_R.any():
        return None
    # From rows to pixels.
    height, width = hidden_hw.shape
    y_h1, x_w = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    row_hw = _product(rows.across_2, x_w, y_h1) - np.float32(rows.first)
    column_hw = np.zeros_like(row_hw)

    def at(values_RC: np.ndarray) -> np.ndarray:
        """The values of rows at every pixel, interpolated."""
        values_R1C = np.ascontiguousarray(values_RC[:, None], np.float32)
        return cv2.remap(values_R1C, column_hw, row_hw, cv2.INTER_LINEAR)

    told_hw4 = at(np.stack([*rows.ends_2R, beyond_R, past_R], 1))
    start_hw, end_hw, beyond_hw, past_hw = np.moveaxis(told_hw4, 2, 0)
    share_hw = _product(rows.along_2, x_w, y_h1) - start_hw
    share_hw1 = np.clip(share_hw / np.maximum(end_hw - start_hw, 1), 0, 1)[..., None]
    before_hw3, behind_hw3 = (at(colour_R3) for colour_R3 in colour_2R3)
    expected_hw3 = before_hw3 + share_hw1 * (behind_hw3 - before_hw3)
    return Lines(expected_hw3, beyond_hw > 0.99, past_hw > 0.5, rows.noise)


def _product(vector_2: np.ndarray, x_w: np.ndarray, y_h1: np.ndarray) -> np.ndarray:
    """The scalar product of a vector with the place of every pixel, (h, w) float32."""
    x, y = vector_2.astype(np.float32)
    product_hw: np.ndarray = x * x_w + y * y_h1
    return product_hw


def _rows(
    lab_hw3: np.ndarray,
    hidden_hw: np.ndarray,
    known_hw: np.ndarray,
    degrees: float,
    px: float,
    broader: float,
) -> _Rows:
    angle = np.deg2rad(degrees)
    across_2 = np.array([np.cos(angle), np.sin(angle)])
    along_2 = np.array([-across_2[1], across_2[0]])
    height, width = hidden_hw.shape
    corners_42 = np.array([[0, 0], [width - 1, 0], [0, height - 1], [width - 1, height - 1]])
    first = float(np.floor((corners_42 @ across_2).min()))
    count = int(np.ceil((corners_42 @ across_2).max()) - first) + 1
    own, ends_2R = _ends(hidden_hw, across_2, along_2, first, count, round(broader * px))
    reach_Z = np.arange(round(ZONE * px)) + 1.0
    place_2RZ = np.stack([ends_2R[0][:, None] - reach_Z, ends_2R[1][:, None] + reach_Z])
    row_R1 = first + np.arange(count)[:, None]
    # The two sides of all rows, one below the other.
    x_RZ, y_RZ = (
        (along * place_2RZ + across * row_R1).astype(np.float32).reshape(2 * count, -1)
        for along, across in zip(along_2, across_2, strict=True)
    )
    colour_RZ3 = cv2.remap(lab_hw3, x_RZ, y_RZ, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    # Without what is mixed with unknown pixels; nothing is known outside the window.
    seen_RZ = cv2.remap(known_hw.view(np.uint8) * 255, x_RZ, y_RZ, cv2.INTER_LINEAR) == 255
    # What hides a row near the region is skipped.
    order_RZ = np.cumsum(seen_RZ, axis=1)
    near = round(NEAR * px)
    zones = []
    for zone_RZ, least in (
        (seen_RZ & (order_RZ <= near), 0.7 * near),
        (seen_RZ & (order_RZ > near), 0.5 * (len(reach_Z) - near)),
    ):
        weight_RZ = zone_RZ.astype(np.float32)
        total_R = weight_RZ.sum(1)
        mean_R3 = np.einsum("rzc,rz->rc", colour_RZ3, weight_RZ) / np.maximum(total_R, 1)[:, None]
        zones.append((mean_R3.reshape(2, count, 3), (total_R >= least).reshape(2, count)))
    (near_2R3, near_2R), (far_2R3, far_2R) = zones
    off_RZ = colour_RZ3[..., 0] - near_2R3.reshape(-1, 3)[:, None, 0]
    close_RZ = seen_RZ & (order_RZ <= near) & near_2R.reshape(-1)[:, None]
    return _Rows(
        across_2, along_2, first, own, ends_2R, near_2R3, far_2R3, near_2R, far_2R, off_RZ, close_RZ
    )


def _ends(
    hidden_hw: np.ndarray,
    across_2: np.ndarray,
    along_2: np.ndarray,
    first: float,
    count: int,
    broader: int,
) -> tuple[tuple[int, int], np.ndarray]:
    """The region's first and last row, and between which places it hides each row, (2, R).

    Every row is taken to be as broad as those up to `broader` rows away, and more beside its own.
    """
    ys, xs = np.nonzero(hidden_hw)
    row_P = np.rint(across_2[0] * xs + across_2[1] * ys - first).astype(np.int64)
    place_P = along_2[0] * xs + along_2[1] * ys
    ends_2R = np.stack([np.full(count, np.inf), np.full(count, -np.inf)])
    np.minimum.at(ends_2R[0], row_P, place_P)
    np.maximum.at(ends_2R[1], row_P, place_P)
    top, bottom = int(row_P.min()), int(row_P.max())
    for row in top + np.flatnonzero(np.isinf(ends_2R[0, top : bottom + 1])):
        ends_2R[:, row] = ends_2R[:, row - 1]
    row_R = np.arange(count)
    away_R = np.maximum(np.maximum(top - row_R, row_R - bottom), 0)
    ends_2R = ends_2R[:, np.clip(row_R, top, bottom)]
    ends_2R[0] = np.maximum(ends_2R[0] - away_R, place_P.min())
    ends_2R[1] = np.minimum(ends_2R[1] + away_R, place_P.max())
    # Right beside a round part its shadow is as straight as a line.
    around = np.ones((2 * broader + 1, 1))
    starts_R1, stops_R1 = ends_2R[0, :, None], ends_2R[1, :, None]
    broad_2R1 = np.stack([cv2.erode(starts_R1, around), cv2.dilate(stops_R1, around)])
    return (top, bottom), broad_2R1[..., 0]


def _changes(colour_R3: np.ndarray) -> np.ndarray:
    """How colour changes from row to row, (R, 3)."""
    change_R3 = np.zeros_like(colour_R3)
    change_R3[1:-1] = (colour_R3[2:] - colour_R3[:-2]) / 2
    return change_R3


def _all_three(known_R: np.ndarray) -> np.ndarray:
    """Rows that are known, and so are those beside them."""
    all_R = np.zeros_like(known_R)
    all_R[1:-1] = known_R[:-2] & known_R[1:-1] & known_R[2:]
    return all_R


def _skew(rows: _Rows, most: int, px: float) -> float | None:
    """By how many rows lines are lower behind the region than before it; None without lines."""
    one_R3, other_R3 = (
        _changes(colour_R3) * _all_three(known_R)[:, None]
        for colour_R3, known_R in zip(rows.near_2R3, rows.near_2R, strict=True)
    )
    if min(float(np.abs(side_R3).max()) for side_R3 in (one_R3, other_R3)) * px < EDGE / 3**0.5:
        return None
    shifts = range(-most - 1, most + 2)
    row_SR = (np.arange(len(other_R3)) + np.array(shifts)[:, None]) % len(other_R3)
    alike = (one_R3 * other_R3[row_SR]).reshape(len(shifts), -1).sum(1)
    best = 1 + int(np.argmax(alike[1:-1]))
    # The top of the parabola through it and its neighbours.
    low, middle, high = alike[best - 1 : best + 2].tolist()
    bend = low - 2 * middle + high
    part = 0.0 if bend >= 0 else float(np.clip((low - high) / (2 * bend), -0.5, 0.5))
    return shifts[best] + part


def _edges(rows: _Rows, px: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are edges that run on, and which are known on both sides, two of (R,) bool."""
    known_R = rows.near_2R[0] & rows.near_2R[1]
    three_R = _all_three(known_R)
    if not three_R.any():
        return three_R, known_R
    one_R3, other_R3 = (_changes(colour_R3) * px for colour_R3 in rows.near_2R3)
    both_R3 = one_R3 + other_R3
    off = float(np.median(lengths(one_R3 - other_R3)[three_R]))
    least, both_R = max(EDGE, SURER * off), lengths(both_R3)

    def like_both(change_R3: np.ndarray) -> np.ndarray:
        """Rows in which colour changes as much as in an edge, and in the same way."""
        length_R = lengths(change_R3)
        alike_R = products(change_R3, both_R3) >= ALIKE * length_R * both_R
        found_R: np.ndarray = (length_R >= least) & alike_R
        return found_R

    runs_on_R = np.zeros_like(known_R)
    steps_R = both_R / (2 * px)
    for near_R3, far_R3, far_R in zip(rows.near_2R3, rows.far_2R3, rows.far_2R, strict=True):
        # The rim of a shadow is bent: farther out its rows have another colour.
        same_R = lengths(near_R3 - far_R3) - steps_R <= SAME_ON
        runs_on_R |= same_R & far_R & like_both(_changes(far_R3) * px)
    return three_R & like_both(one_R3) & like_both(other_R3) & runs_on_R, known_R


def _colours(rows: _Rows) -> np.ndarray:
    """The colour of each row on its two sides, (2, R, 3): of all that is seen of it where that is
    one row."""
    same_2R = np.linalg.norm(rows.near_2R3 - rows.far_2R3, axis=2) <= SAME / 2
    weight_2R1 = np.where(rows.far_2R & same_2R, 1 - NEAR / ZONE, 0)[..., None]
    colour_2R3: np.ndarray = (1 - weight_2R1) * rows.near_2R3 + weight_2R1 * rows.far_2R3
    return colour_2R3
