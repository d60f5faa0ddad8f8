"""Appearance of objects: CIELAB thumbnails, compared in every rotation.

The comparison should call two objects the same kind in spite of sensor noise and lighting, and
should tell a nut from a washer. Thumbnails average the noise away; lightness has a low weight.

Shapes: h, w cells of a thumbnail; 3 CIELAB (L 0-100); T rotations; H, W common canvas or image.
"""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from pipeline.imaging.masks import MaskCrop, main_axis, rotation, warped

# Two objects are exchangeable when neither has more than this multiple of the other's area.
SIMILAR_AREA = 2.0
# Cells along the longer side of a thumbnail: fine enough to tell a screw's two ends apart, coarse
# enough to average sensor noise away.
CELLS = 20
# CIELAB distance of dominant colours from which two objects clearly differ in colour.
OTHER_COLOUR = 18.0
# Two oblong objects are one kind in two rotations when their areas and aspect ratios differ by less
# than this factor, their mean colours by less than this CIELAB distance, and their directions by at
# least these degrees.
OBLONG_RATIO, OBLONG_COLOUR, OBLONG_TURN = 1.4, 9.0, 20.0
# CIELAB distance assigned to cells that only one of the two outlines covers.
UNCOVERED_COST = 30.0
# Weights of squared differences in L, a, b: lightness varies with illumination and shading.
LAB_WEIGHTS_3 = np.array([0.25, 1.0, 1.0], np.float32)
# Mean distance of two thumbnails, in the best rotation, below which they show one kind of object.
# Measured on rendered objects: two of a kind 5 to 14 (pins, which lean, up to 27), a nut and a
# washer 14, others 17 and more.
SAME_KIND_DISTANCE = 13.5
# Distance from which a rotation is visible: round fruit, nuts and washers stay below it, bolts (20)
# and labels are above.
VISIBLE_TURN = 15.0
# Share of an object that its body must hold; else the whole object is its body, as for a screw,
# whose shaft the opening removes.
MIN_BODY_SHARE = 0.7
# IoU of an object's body before and after a rotation, as thumbnails, from which it counts as round
# or square. Proposals of mandarins, with missing and extra bits, reach 0.6 to 0.9.
SAME_OUTLINE_IOU = 0.6
# Distance by which the pattern of a round or square object must change, shading aside, for its
# rotation to be visible. Measured on rendered objects: mandarins up to 12, cherry and orange labels
# from 14 on. A lime label reaches 11 in oblique rotations, which are therefore not used.
VISIBLE_PATTERN = 12.0
# Rotations in which two objects are compared, degrees.
ROTATIONS = tuple(range(0, 360, 20))


@dataclass(eq=False)
class Thumbnail:
    """A thumbnail of an object: `colour_hw3` CIELAB premultiplied by cover, `cover_hw` in [0,
    1]."""

    colour_hw3: np.ndarray
    cover_hw: np.ndarray

    @cached_property
    def area(self) -> float:
        """Covered area in cells, never 0."""
        return max(1e-6, float(self.cover_hw.sum()))

    @cached_property
    def mean_3(self) -> np.ndarray:
        """Mean CIELAB colour, (3,) float32."""
        mean_3: np.ndarray = self.colour_hw3.sum((0, 1)) / self.area
        return mean_3

    @cached_property
    def dominant_3(self) -> np.ndarray:
        """Mean CIELAB colour weighted by chroma, (3,).

        This is the colour that a person would name: a red pin is red, no matter how much of its
        grey needle the proposal includes.
        """
        # Colours are premultiplied by cover, so the weight of a cell is chroma per cover.
        chroma_hw = np.hypot(self.colour_hw3[..., 1], self.colour_hw3[..., 2])
        share_hw1 = ((chroma_hw + 1) / np.maximum(self.cover_hw, 1e-3))[..., None]
        weight = max(1e-6, float((self.cover_hw * share_hw1[..., 0]).sum()))
        dominant_3: np.ndarray = (self.colour_hw3 * share_hw1).sum((0, 1)) / weight
        return dominant_3

    @cached_property
    def axis(self) -> tuple[float, float]:
        """Direction of the long axis in degrees, and aspect ratio; see `main_axis`."""
        return main_axis(self.cover_hw)

    @cached_property
    def channels_hw4(self) -> np.ndarray:
        """Colour and cover in one array, so that one warp moves both."""
        return np.dstack([self.colour_hw3, self.cover_hw])

    def warped_by(self, matrix_22: np.ndarray) -> "Thumbnail":
        """The thumbnail under a linear map about its centre."""
        channels_hw4 = warped(self.channels_hw4, matrix_22)
        return Thumbnail(channels_hw4[..., :3], channels_hw4[..., 3])

    @cached_property
    def body(self) -> "Thumbnail":
        """The convex hull of the largest solid component, colourless: a cleaned-up outline.

        Proposals of round fruit often miss a highlight, or include a bit of the neighbouring fruit.
        """
        # Opening removes thin bits; padding lets it work at the thumbnail's edge.
        solid_hw = np.pad((self.cover_hw > 0.5).astype(np.uint8), 2)
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        opened_hw = cv2.morphologyEx(solid_hw, cv2.MORPH_OPEN, disc)
        count, labels_hw, stats, _ = cv2.connectedComponentsWithStats(opened_hw)
        largest = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1 if count > 1 else 0
        least = MIN_BODY_SHARE * np.count_nonzero(solid_hw)
        if not largest or stats[largest, cv2.CC_STAT_AREA] < least:
            # The opening removed a real part of the object, such as a shaft.
            return Thumbnail(np.zeros_like(self.colour_hw3), self.cover_hw)
        points_N2 = np.argwhere(labels_hw == largest)[:, ::-1].astype(np.int32)
        hull_hw = cv2.fillConvexPoly(np.zeros_like(solid_hw), cv2.convexHull(points_N2), 1)
        cover_hw = MaskCrop.of(hull_hw > 0).mask_hw.astype(np.float32)
        return Thumbnail(np.zeros((*cover_hw.shape, 3), np.float32), cover_hw)

    @cached_property
    def pattern(self) -> "Thumbnail":
        """The surface pattern (print, texture) with shading roughly removed.

        Colours are scaled to the mean lightness, and a quadratic surface per channel, which is what
        changes slowly over the object, is subtracted.
        """
        height, width = self.cover_hw.shape
        lab_hw3 = self.colour_hw3 / np.maximum(self.cover_hw, 1e-3)[..., None]
        # Chroma scales with lightness under shading. Below L = 5 the ratio would only amplify
        # noise.
        lightness_hw1 = np.maximum(lab_hw3[..., :1], 5.0)
        lab_hw3[..., 1:] *= self.mean_3[0] / lightness_hw1
        y_h1, x_1w = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
        x_hw, y_hw = (np.broadcast_to(one, (height, width)) for one in (x_1w, y_h1))
        surface_hw6 = np.stack(
            [np.ones_like(x_hw), x_hw, y_hw, x_hw * x_hw, x_hw * y_hw, y_hw * y_hw], axis=-1
        )
        # Fit on well covered cells only; the rim mixes in background.
        sure_hw = self.cover_hw > 0.5
        slow_63 = np.linalg.lstsq(surface_hw6[sure_hw], lab_hw3[sure_hw], rcond=None)[0]
        left_hw3 = (lab_hw3 - surface_hw6 @ slow_63) * self.cover_hw[..., None]
        return Thumbnail(left_hw3.astype(np.float32), self.cover_hw)

    @cached_property
    def rotations(self) -> "ThumbnailStack":
        """The thumbnail in all `ROTATIONS`, centred on square canvases."""
        # The diagonal, so that every rotation fits.
        side = int(np.ceil(np.hypot(*self.cover_hw.shape)))
        found = [centred(self.warped_by(rotation(turn)), side, side) for turn in ROTATIONS]
        return ThumbnailStack(
            np.concatenate([one.colour_THW3 for one in found]),
            np.concatenate([one.cover_THW for one in found]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ThumbnailStack:
    """Thumbnails centred on equal canvases, float32: colours (0 where uncovered) and cover.

    Unlike in `Thumbnail`, colours are not premultiplied by cover.
    """

    colour_THW3: np.ndarray
    cover_THW: np.ndarray

    def padded_to(self, side: int) -> "ThumbnailStack":
        """The same on square canvases of `side` cells, which must not be smaller."""
        pad = side - self.cover_THW.shape[1]
        if pad == 0:
            return self
        edge = (pad // 2, pad - pad // 2)
        sides = ((0, 0), edge, edge)
        return ThumbnailStack(
            np.pad(self.colour_THW3, (*sides, (0, 0))), np.pad(self.cover_THW, sides)
        )

    def selected(self, chosen_T: np.ndarray) -> "ThumbnailStack":
        """The entries where `chosen_T` (bool) is True."""
        return ThumbnailStack(self.colour_THW3[chosen_T], self.cover_THW[chosen_T])


def cell_size(crop: MaskCrop) -> int:
    """The side in pixels of the cells that suit an object of this size."""
    return max(1, round(max(crop.mask_hw.shape) / CELLS))


def thumbnail_of(crop: MaskCrop, image_HW3: np.ndarray, cell: int) -> Thumbnail:
    """The thumbnail of an object, with square cells of `cell` pixels; `image_HW3` is uint8 RGB."""
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
    """Mean CIELAB distance of two thumbnails, centre on centre.

    Cells that only one of them covers count with `UNCOVERED_COST`.
    """
    return float(_distances(*_centred_pair(first, second))[0])


def turn_is_visible(thumbnail: Thumbnail, matrix_22: np.ndarray) -> bool:
    """True when a rotation (or mirroring) of the object is visible.

    If the outline stays nearly the same, the surface pattern has to differ: a rotated round fruit
    shows only its shading from the wrong side, which is no logical anomaly.
    """
    after = thumbnail.warped_by(matrix_22)
    if distance(thumbnail, after) < VISIBLE_TURN:
        return False
    one, other = _centred_pair(thumbnail.body, thumbnail.body.warped_by(matrix_22))
    shared = np.minimum(one.cover_THW, other.cover_THW).sum()
    if shared < SAME_OUTLINE_IOU * np.maximum(one.cover_THW, other.cover_THW).sum():
        return True
    one, other = _centred_pair(thumbnail.pattern, thumbnail.pattern.warped_by(matrix_22))
    inside_THW = np.minimum(one.cover_THW, other.cover_THW) > 0.9
    inside_M3 = (one.colour_THW3 - other.colour_THW3)[inside_THW]
    return len(inside_M3) > 0 and float(np.linalg.norm(inside_M3, axis=1).mean()) >= VISIBLE_PATTERN


def _centred_pair(first: Thumbnail, second: Thumbnail) -> tuple[ThumbnailStack, ThumbnailStack]:
    """Two thumbnails, centre on centre, on canvases of one size."""
    height = max(first.cover_hw.shape[0], second.cover_hw.shape[0])
    width = max(first.cover_hw.shape[1], second.cover_hw.shape[1])
    return centred(first, height, width), centred(second, height, width)


def same_kind(first: Thumbnail, second: Thumbnail) -> bool:
    """True when the second thumbnail resembles the first in some rotation."""
    if _clearly_different(first, second):
        return False
    side = max(second.rotations.cover_THW.shape[1], *first.cover_hw.shape)
    one, rotations = centred(first, side, side), second.rotations.padded_to(side)
    # The outline distance is cheaper, and colours can only add to it.
    chosen_T = _outline_distances(one, rotations) < SAME_KIND_DISTANCE
    return bool(
        chosen_T.any()
        and (_distances(one, rotations.selected(chosen_T)) < SAME_KIND_DISTANCE).any()
    )


def _clearly_different(first: Thumbnail, second: Thumbnail) -> bool:
    """True when sizes or mean colours alone tell two thumbnails apart; a cheap first test."""
    # Even with the best overlap, the difference in area alone would exceed the distance.
    large, small = max(first.area, second.area), min(first.area, second.area)
    return UNCOVERED_COST * (large - small) > SAME_KIND_DISTANCE * large or (
        _colour_distance(first, second) > 2 * SAME_KIND_DISTANCE
    )


def _distances(one: ThumbnailStack, other: ThumbnailStack) -> np.ndarray:
    """(T,) mean distances; see `distance`."""
    a_THW, b_THW = one.cover_THW, other.cover_THW
    squares_THW = ((one.colour_THW3 - other.colour_THW3) ** 2) @ LAB_WEIGHTS_3
    both_T = (np.minimum(a_THW, b_THW) * np.sqrt(squares_THW)).sum((1, 2))
    lone_T = np.abs(a_THW - b_THW).sum((1, 2))
    return (both_T + UNCOVERED_COST * lone_T) / np.maximum(
        np.maximum(a_THW, b_THW).sum((1, 2)), 1e-6
    )


def _outline_distances(one: ThumbnailStack, other: ThumbnailStack) -> np.ndarray:
    """(T,) what `_distances` would be if all colours were equal; its lower bound."""
    a_THW, b_THW = one.cover_THW, other.cover_THW
    lone_T = np.abs(a_THW - b_THW).sum((1, 2))
    return UNCOVERED_COST * lone_T / np.maximum(np.maximum(a_THW, b_THW).sum((1, 2)), 1e-6)


def _colour_distance(first: Thumbnail, second: Thumbnail) -> float:
    """Weighted CIELAB distance of the mean colours."""
    return float(np.sqrt(((first.mean_3 - second.mean_3) ** 2) @ LAB_WEIGHTS_3))


def same_but_turned(mine: Thumbnail, other: Thumbnail) -> bool:
    """True when the other thumbnail shows the same kind of object in another rotation.

    Slender objects are also compared by area, aspect ratio, colour and direction: `ROTATIONS` are
    20 degrees apart, and between them thin objects hardly overlap.
    """
    ratio = max(mine.area, other.area) / min(mine.area, other.area)
    colour = _colour_distance(mine, other)
    if ratio > SIMILAR_AREA or colour > 2 * SAME_KIND_DISTANCE:
        return False
    (along, slender), (across, slim) = mine.axis, other.axis
    # Directions of axes are equal modulo 180 degrees.
    turn = abs((along - across + 90) % 180 - 90)
    like_shape = max(ratio, slender / slim, slim / slender) < OBLONG_RATIO
    same_oblong = like_shape and colour < OBLONG_COLOUR
    same_oblong = same_oblong and turn >= OBLONG_TURN and slender >= OBLONG_RATIO
    if not same_oblong and _clearly_different(other, mine):
        return False
    return distance(mine, other) >= VISIBLE_TURN and (same_oblong or same_kind(other, mine))


def centred(thumbnail: Thumbnail, height: int, width: int) -> ThumbnailStack:
    """One thumbnail centred on an empty canvas; what does not fit is cropped on all sides."""
    colour_HW3 = np.zeros((height, width, 3), np.float32)
    cover_HW = np.zeros((height, width), np.float32)
    shape_hw = thumbnail.cover_hw.shape
    rows, columns = (min(a, b) for a, b in zip(shape_hw, (height, width), strict=True))
    top, left = (height - rows) // 2, (width - columns) // 2
    up, aside = (shape_hw[0] - rows) // 2, (shape_hw[1] - columns) // 2
    inner = np.s_[up : up + rows, aside : aside + columns]
    place = np.s_[top : top + rows, left : left + columns]
    cover_hw = thumbnail.cover_hw[inner]
    cover_HW[place] = cover_hw
    # Undo the premultiplication.
    colour_HW3[place] = thumbnail.colour_hw3[inner] / np.maximum(cover_hw, 1e-3)[..., None]
    return ThumbnailStack(colour_HW3[None], cover_HW[None])
