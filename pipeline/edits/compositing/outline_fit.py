"""Fit an object's outline to the image: every outline point moves along its normal, to the edge.

The points of a mask's outline are sampled across the outline. Which offset fits best is asked of
neighbours together, so the outline stays even where the texture of the background is not.

Shapes: h, w window; P points of one outline; M samples across it, from inside to outside; K offsets
that are tried; 2 x and y.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Gaussian sigma in outline points by which the pixel steps of a mask's outline are smoothed.
STEPS = 1.0
# Offsets that are tried per `band`, on either side.
PER_BAND = 4
# Gaussian sigma along the outline, in units of `band`: of scores, and of the offsets they give.
ALONG, EVEN = 1.25, 0.75
# How much an offset of a whole band costs, in units of a band of pixels that contradict it. The
# mask is right more often than colours are.
STAY = 0.5
# Share of an object's local half width by which the outline may move inwards: thin pieces, of which
# colours tell little, stay.
INWARDS = 0.67
# How sharply the best offset outweighs the second best.
SHARP = 8.0
# Polygons are drawn larger by these factors, for fine and for coarse bands, and then reduced.
FINE, COARSE = 4, 2


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """Points between the pixels on an object's outline, (P, 2) float32, and their normals, outward,
    of length 1; outlines are closed. `hole` is True for the outline of a hole."""

    points_P2: np.ndarray
    normals_P2: np.ndarray
    hole: bool = False

    def sampled(self, layers: np.ndarray, offsets_M: np.ndarray) -> np.ndarray:
        """Layers (h, w) or (h, w, C) float32 along the normals, (P, M) or (P, M, C)."""
        places_PM2 = self.points_P2[:, None] + offsets_M[:, None] * self.normals_P2[:, None]
        places_PM2 = places_PM2.astype(np.float32)
        return cv2.remap(
            layers, places_PM2[..., 0], places_PM2[..., 1], cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip

    def moved(self, offset_P: np.ndarray) -> "Outline":
        moved_P2 = self.points_P2 + offset_P[:, None] * self.normals_P2
        return Outline(moved_P2, self.normals_P2, self.hole)


def outlines_of(mask_hw: np.ndarray) -> list[Outline]:
    """The outlines of a mask and of its holes."""
    found, nested_1P4 = cv2.findContours(
        mask_hw.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    outlines = []
    for index, pixels in enumerate(found):
        points_P2 = _along(pixels[:, 0].astype(np.float32), STEPS)
        ahead_P2 = np.roll(points_P2, -1, 0) - np.roll(points_P2, 1, 0)
        normals_P2 = _along(ahead_P2[:, ::-1] * np.array((-1, 1), np.float32), STEPS)
        normals_P2 /= np.maximum(np.hypot(*normals_P2.T), 1e-3)[:, None]
        # OpenCV names the object's outermost pixels; its outline runs half a pixel farther out.
        points_P2 = points_P2 + np.float32(0.5) * normals_P2
        # Outlines with a parent are those of holes.
        outlines.append(Outline(points_P2, normals_P2, hole=bool(nested_1P4[0, index, 3] >= 0)))
    return outlines


def tried_offsets(band: int) -> np.ndarray:
    """(K,) float32 offsets in pixels, negative inside."""
    return np.arange(-PER_BAND, PER_BAND + 1, dtype=np.float32) * np.float32(band / PER_BAND)


def fitted(
    outline: Outline, object_PM: np.ndarray, offsets_M: np.ndarray, depth_hw: np.ndarray, band: int
) -> Outline:
    """The outline where it fits best.

    `object_PM` says in [-1, 1] how much the pixel between two tried offsets looks like object
    (1) or background (-1), 0 where nothing is known; M = K - 1, and `offsets_M` are the middles.
    `depth_hw` is how deep inside the mask a pixel lies.
    """
    offsets_K = tried_offsets(band)
    # All that lies inside of an offset should be object: the sum of what says so.
    step = 1 / PER_BAND
    score_PK = np.zeros((len(object_PM), len(offsets_K)), np.float32)
    np.cumsum(object_PM * step, axis=1, out=score_PK[:, 1:])
    score_PK -= STAY * (offsets_K / band) ** 2
    half_P1 = outline.sampled(depth_hw, offsets_M[offsets_M < 0] - band / 2).max(1, keepdims=True)
    score_PK = _along(score_PK, ALONG * band)
    score_PK[-offsets_K > INWARDS * half_P1] = -np.inf
    weight_PK = np.exp(SHARP * (score_PK - score_PK.max(1, keepdims=True)))
    offset_P = (weight_PK * offsets_K).sum(1) / weight_PK.sum(1)
    return outline.moved(_along(offset_P[:, None], EVEN * band)[:, 0])


def cover_of(outlines: list[Outline], shape_hw: tuple[int, int], band: int) -> np.ndarray:
    """How much of each pixel lies inside the outlines, (h, w) float32 in [0, 1]."""
    height, width = shape_hw
    factor = FINE if band < FINE else COARSE
    large_hw = np.zeros((height * factor, width * factor), np.uint8)
    # One by one and the larger ones first: two pieces that grew together are one, and a piece may
    # lie in the hole of another.
    for one in sorted(outlines, key=lambda one: -cv2.contourArea(one.points_P2)):
        # Pixel centres have whole coordinates, and a polygon covers half a pixel beyond its edge.
        inward = -0.5 if one.hole else 0.5
        places_P2 = (one.points_P2 + 0.5) * factor - 0.5 - inward * one.normals_P2
        # In sixteenths of a pixel.
        drawn_P2 = np.rint(places_P2 * 16).astype(np.int32)
        cv2.fillPoly(large_hw, [drawn_P2], 0 if one.hole else 255, shift=4)
    cover_hw: np.ndarray = cv2.resize(large_hw, (width, height), interpolation=cv2.INTER_AREA)
    return cover_hw.astype(np.float32) / 255


def _along(values_PC: np.ndarray, sigma: float) -> np.ndarray:
    """Values smoothed along a closed outline, (P, C) float32."""
    count, reach = len(values_PC), int(4 * sigma) + 1
    # Of a short outline every point is a neighbour several times over.
    around_PC = np.take(values_PC, np.arange(-reach, count + reach), axis=0, mode="wrap")
    smooth_PC = cv2.GaussianBlur(
        around_PC.astype(np.float32), (1, 2 * reach + 1), sigmaX=1, sigmaY=sigma
    )
    return smooth_PC.reshape(around_PC.shape)[reach : reach + count]
