"""How alike two parts look: thumbnails in CIELAB, compared in every turn.

Two pictures of one kind of part count as the same whatever lies between them but grain and light.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pipeline.imaging.masks import MaskCrop, main_axis, turning, warped

SIMILAR_AREA = 2.0
"""Two parts can stand in for one another when neither is larger than this multiple of the other."""
CELLS = 20
"""Cells along the longer side of a look: fine enough for a screw's two ends, blind to grain."""
OTHER_COLOUR = 18.0
"""CIELAB distance of paints from which a part is clearly of another colour."""
KIN, KIN_COLOUR, KIN_TURN = 1.4, 9.0, 20.0
"""Two oblong parts are one kind in two turns when area and slenderness differ by no more than this
factor, mean colours by no more than this distance, and their directions by these degrees."""
OUTSIDE = 30.0
"""CIELAB distance that counts where one outline has a part and the other has none."""
LIGHT_3 = np.array([0.25, 1.0, 1.0], np.float32)
"""Weights of squared differences in L, a, b: light and shading tell less than colour does."""
ALIKE = 13.5
"""Mean distance of two looks, in the best turn, below which they are one kind of part. Measured on
rendered parts: two of a kind 5 to 14 (pins, which lean, up to 27), a nut and a washer 14, others
17 and more."""
TURNED = 15.0
"""Distance that a turn must make to be seen: round fruit, nuts and washers stay below it, bolts
(20) and labels come above."""
SOLID = 0.7
"""Share of a part that its body must hold; else the whole part is its body, as of a screw."""
SAME_OUTLINE = 0.6
"""Shared area to joint area of a part's body before and after a turn, as thumbnails, from which it
counts as round or square: mandarins as proposed, bites and scraps and all, have 0.6 to 0.9."""
PATTERN = 12.0
"""Distance that the paint of a round or square part must change, shading aside, for its turn to be
seen. Measured on rendered parts: mandarins up to 12, cherry and orange labels from 14 on; a lime
label is at 11 in oblique turns, which it loses."""
TURNS = tuple(range(0, 360, 20))
"""Turns under which two parts may be the same kind of part, degrees."""


@dataclass(eq=False)
class Thumbnail:
    """A thumbnail: CIELAB times cover, cover in [0, 1], in cells of so many pixels.

    `mean_3` is the mean colour; `paint_3` the one that is named, for colourful cells count more: a
    red pin is red, however much of its needle a proposal holds.
    """

    colour_hw3: np.ndarray
    cover_hw: np.ndarray

    @cached_property
    def area(self) -> float:
        return max(1e-6, float(self.cover_hw.sum()))

    @cached_property
    def mean_3(self) -> np.ndarray:
        mean_3: np.ndarray = self.colour_hw3.sum((0, 1)) / self.area
        return mean_3

    @cached_property
    def paint_3(self) -> np.ndarray:
        chroma_hw = np.hypot(self.colour_hw3[..., 1], self.colour_hw3[..., 2])
        share_hw1 = ((chroma_hw + 1) / np.maximum(self.cover_hw, 1e-3))[..., None]
        weight = max(1e-6, float((self.cover_hw * share_hw1[..., 0]).sum()))
        paint_3: np.ndarray = (self.colour_hw3 * share_hw1).sum((0, 1)) / weight
        return paint_3

    @cached_property
    def axis(self) -> tuple[float, float]:
        """Direction of its length and length to width, see `main_axis`."""
        return main_axis(self.cover_hw)

    @cached_property
    def both_hw4(self) -> np.ndarray:
        return np.dstack([self.colour_hw3, self.cover_hw])

    def turned(self, matrix_22: np.ndarray) -> "Thumbnail":
        both_hw4 = warped(self.both_hw4, matrix_22)
        return Thumbnail(both_hw4[..., :3], both_hw4[..., 3])

    @cached_property
    def body(self) -> "Thumbnail":
        """The hull of the largest solid piece, in no colour: an outline without bites and scraps.

        Proposals of round fruit miss a highlight, or hold a corner of the fruit beside it.
        """
        solid_hw = np.pad((self.cover_hw > 0.5).astype(np.uint8), 2)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        opened_hw = cv2.morphologyEx(solid_hw, cv2.MORPH_OPEN, disc)
        count, labels_hw, stats, _ = cv2.connectedComponentsWithStats(opened_hw)
        largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1 if count > 1 else 0
        if not largest or stats[largest, cv2.CC_STAT_AREA] < SOLID * np.count_nonzero(solid_hw):
            return Thumbnail(np.zeros_like(self.colour_hw3), self.cover_hw)  # a shaft went with it
        points_N2 = np.argwhere(labels_hw == largest)[:, ::-1].astype(np.int32)
        hull_hw = cv2.fillConvexPoly(np.zeros_like(solid_hw), cv2.convexHull(points_N2), 1)
        cover_hw = MaskCrop.of(hull_hw > 0).mask_hw.astype(np.float32)
        return Thumbnail(np.zeros((*cover_hw.shape, 3), np.float32), cover_hw)

    @cached_property
    def pattern(self) -> "Thumbnail":
        """What is painted on the part, without its shading, roughly.

        Colours are brought to the mean lightness, and what changes slowly over the part (a
        quadratic surface per channel) is taken away.
        """
        height, width = self.cover_hw.shape
        lab_hw3 = self.colour_hw3 / np.maximum(self.cover_hw, 1e-3)[..., None]
        lightness_hw1 = np.maximum(lab_hw3[..., :1], 5.0)
        lab_hw3[..., 1:] *= self.mean_3[0] / lightness_hw1
        y_h1, x_1w = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        x_hw, y_hw = (np.broadcast_to(one, (height, width)) for one in (x_1w, y_h1))
        surface_hw6 = np.stack(
            [np.ones_like(x_hw), x_hw, y_hw, x_hw * x_hw, x_hw * y_hw, y_hw * y_hw], axis=-1
        )
        sure_hw = self.cover_hw > 0.5
        slow_63 = np.linalg.lstsq(surface_hw6[sure_hw], lab_hw3[sure_hw], rcond=None)[0]
        left_hw3 = (lab_hw3 - surface_hw6 @ slow_63) * self.cover_hw[..., None]
        return Thumbnail(left_hw3.astype(np.float32), self.cover_hw)

    @cached_property
    def turns(self) -> "Canvases":
        """The look in all TURNS, on one square canvas each."""
        side = int(np.ceil(np.hypot(*self.cover_hw.shape)))
        found = [on_canvas(self.turned(turning(turn)), side, side) for turn in TURNS]
        return Canvases(
            np.concatenate([one.colour_THW3 for one in found]),
            np.concatenate([one.cover_THW for one in found]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Canvases:
    """Looks in the middle of equal canvases, float32: colours (0 where nothing is) and cover."""

    colour_THW3: np.ndarray
    cover_THW: np.ndarray

    def grown(self, side: int) -> "Canvases":
        """The same in the middle of square canvases that are at least as large."""
        pad = side - self.cover_THW.shape[1]
        if pad == 0:
            return self
        edge = (pad // 2, pad - pad // 2)
        sides = ((0, 0), edge, edge)
        return Canvases(np.pad(self.colour_THW3, (*sides, (0, 0))), np.pad(self.cover_THW, sides))

    def only(self, chosen_T: np.ndarray) -> "Canvases":
        return Canvases(self.colour_THW3[chosen_T], self.cover_THW[chosen_T])


def cell_of(crop: MaskCrop) -> int:
    """The side in pixels of the cells that a part of this size is looked at with."""
    return max(1, round(max(crop.mask_hw.shape) / CELLS))


def thumbnail_of(crop: MaskCrop, image_HW3: np.ndarray, cell: int) -> Thumbnail:
    """The thumbnail of an object in cells of so many pixels."""
    height, width = crop.mask_hw.shape
    size = (max(1, round(width / cell)), max(1, round(height / cell)))
    cover_HW = crop.mask_hw.astype(np.float32)
    x0, y0, x1, y1 = crop.box_4
    pixels_hw3 = image_HW3[y0:y1, x0:x1].astype(np.float32) / 255
    lab_HW3 = cv2.cvtColor(pixels_hw3, cv2.COLOR_RGB2LAB)
    colour_hw3 = cv2.resize(lab_HW3 * cover_HW[..., None], size, interpolation=cv2.INTER_AREA)
    cover_hw = cv2.resize(cover_HW, size, interpolation=cv2.INTER_AREA)
    return Thumbnail(colour_hw3.reshape(size[1], size[0], 3), cover_hw)


def distance(first: Thumbnail, second: Thumbnail) -> float:
    """Mean CIELAB distance of two looks laid middle on middle; not covered by one = OUTSIDE."""
    return float(_apart(*_both(first, second))[0])


def turn_shows(look: Thumbnail, matrix_22: np.ndarray) -> bool:
    """True when one can see that a part was turned (or mirrored).

    Of a part whose outline stays nearly the same the paint has to differ: a round fruit turned
    shows its light from the wrong side and nothing else.
    """
    after = look.turned(matrix_22)
    if distance(look, after) < TURNED:
        return False
    one, other = _both(look.body, look.body.turned(matrix_22))
    shared = np.minimum(one.cover_THW, other.cover_THW).sum()
    if shared < SAME_OUTLINE * np.maximum(one.cover_THW, other.cover_THW).sum():
        return True
    one, other = _both(look.pattern, look.pattern.turned(matrix_22))
    inside_THW = np.minimum(one.cover_THW, other.cover_THW) > 0.9
    inside_M3 = (one.colour_THW3 - other.colour_THW3)[inside_THW]
    return len(inside_M3) > 0 and float(np.linalg.norm(inside_M3, axis=1).mean()) >= PATTERN


def _both(first: Thumbnail, second: Thumbnail) -> tuple[Canvases, Canvases]:
    """Two looks, middle on middle, on canvases of one size."""
    height = max(first.cover_hw.shape[0], second.cover_hw.shape[0])
    width = max(first.cover_hw.shape[1], second.cover_hw.shape[1])
    return on_canvas(first, height, width), on_canvas(second, height, width)


def same_kind(first: Thumbnail, second: Thumbnail) -> bool:
    """True when some turn of the second looks like the first."""
    if _surely_unlike(first, second):
        return False
    side = max(second.turns.cover_THW.shape[1], *first.cover_hw.shape)
    one, turns = on_canvas(first, side, side), second.turns.grown(side)
    chosen_T = _outlines_apart(one, turns) < ALIKE  # colours can only add to it
    return bool(chosen_T.any() and (_apart(one, turns.only(chosen_T)) < ALIKE).any())


def _surely_unlike(first: Thumbnail, second: Thumbnail) -> bool:
    """True when sizes or mean colours alone tell two looks apart."""
    large, small = max(first.area, second.area), min(first.area, second.area)
    return OUTSIDE * (large - small) > ALIKE * large or (
        _colour_distance(first, second) > 2 * ALIKE
    )


def _apart(one: Canvases, other: Canvases) -> np.ndarray:
    """(T,) mean distances; see `distance`."""
    a_THW, b_THW = one.cover_THW, other.cover_THW
    squares_THW = ((one.colour_THW3 - other.colour_THW3) ** 2) @ LIGHT_3
    both_T = (np.minimum(a_THW, b_THW) * np.sqrt(squares_THW)).sum((1, 2))
    lone_T = np.abs(a_THW - b_THW).sum((1, 2))
    return (both_T + OUTSIDE * lone_T) / np.maximum(np.maximum(a_THW, b_THW).sum((1, 2)), 1e-6)


def _outlines_apart(one: Canvases, other: Canvases) -> np.ndarray:
    """(T,) what `_apart` would be if all colours were the same."""
    a_THW, b_THW = one.cover_THW, other.cover_THW
    lone_T = np.abs(a_THW - b_THW).sum((1, 2))
    return OUTSIDE * lone_T / np.maximum(np.maximum(a_THW, b_THW).sum((1, 2)), 1e-6)


def _colour_distance(first: Thumbnail, second: Thumbnail) -> float:
    return float(np.sqrt(((first.mean_3 - second.mean_3) ** 2) @ LIGHT_3))


def same_but_turned(mine: Thumbnail, other: Thumbnail) -> bool:
    """True when the other look is of the same kind of part and lies in another turn."""
    ratio = max(mine.area, other.area) / min(mine.area, other.area)
    colour = _colour_distance(mine, other)
    if ratio > SIMILAR_AREA or colour > 2 * ALIKE:
        return False
    (along, slender), (across, slim) = mine.axis, other.axis
    turn = abs((along - across + 90) % 180 - 90)
    akin = max(ratio, slender / slim, slim / slender) < KIN and colour < KIN_COLOUR
    akin = akin and turn >= KIN_TURN and slender >= KIN
    if not akin and _surely_unlike(other, mine):
        return False
    return distance(mine, other) >= TURNED and (akin or same_kind(other, mine))


def on_canvas(look: Thumbnail, height: int, width: int) -> Canvases:
    """One look in the middle of an empty canvas; what does not fit is cut off on all sides."""
    colour_HW3 = np.zeros((height, width, 3), np.float32)
    cover_HW = np.zeros((height, width), np.float32)
    rows, columns = (min(a, b) for a, b in zip(look.cover_hw.shape, (height, width), strict=True))
    top, left = (height - rows) // 2, (width - columns) // 2
    up, aside = (look.cover_hw.shape[0] - rows) // 2, (look.cover_hw.shape[1] - columns) // 2
    inner = np.s_[up : up + rows, aside : aside + columns]
    place = np.s_[top : top + rows, left : left + columns]
    cover_hw = look.cover_hw[inner]
    cover_HW[place] = cover_hw
    colour_HW3[place] = look.colour_hw3[inner] / np.maximum(cover_hw, 1e-3)[..., None]
    return Canvases(colour_HW3[None], cover_HW[None])
