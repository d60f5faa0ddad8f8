"""What a part looks like, in numbers that do not depend on where it lies or how it is turned.

A `PartDescriptor` is what rules talk about (centre, size, colour, turn) and one vector that kinds
are told by: colour, size, outline, and features of the frozen bundled teacher, roughly of one
scale. The part is turned onto its long axis, cut out and laid on grey before the teacher sees it,
so neither its turn nor its neighbours matter.

Shapes: N parts; H, W image; S = 64 side of a cut-out; C = vector length.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

SIDE = 64
"""Pixels of a cut-out's side; the part fills three quarters of it."""
FILL = 0.75
GREY = (124, 116, 104)
"""Laid around a part: the mean of the teacher's training pictures, where it answers with least."""
ROUND = 1.15
"""Ratio of a part's axes below which it has no long axis."""

# One unit of distance in each group of numbers; `rules_kinds.Space` finds the finer scale.
COLOUR_UNIT = 8.0  # CIELAB
TEXTURE_UNIT = 8.0  # deviation of lightness
SIZE_UNIT = 0.15  # logarithm of the side of a square of the same area
LENGTH_UNIT = 0.20  # logarithm of the ratio of the axes
OUTLINE_UNIT = 0.08  # solidity, share of holes
FEATURE_UNIT = 0.12  # distance of unit vectors
"""See `vector_of`."""


@dataclass(frozen=True, slots=True, eq=False)
class PartDescriptor:
    """One part. `centre` in pixels; `size` is the root of its area in units of the product's.

    `angle` is that of its long axis against the product's, in [0, 180) degrees, None for round
    ones; `lab` the mean colour; `face_S` 64 numbers that say how light and dark lie on the
    upright part.
    """

    centre: tuple[float, float]
    size: float
    angle: float | None
    lab: tuple[float, float, float]
    vector_C: np.ndarray
    face_S: np.ndarray


class Describer:
    """Looks of masked parts; `features` maps cut-outs (N, S, S, 3) uint8 to (N, F) float32."""

    def __init__(self, features: Any) -> None:
        self._features = features

    @classmethod
    def bundled(cls) -> "Describer":
        """With the teacher that lies beside the program."""
        return cls(_bundled_features())

    def __call__(
        self, image_HW3: np.ndarray, masks_NHW: np.ndarray, frame: Any
    ) -> tuple[PartDescriptor, ...]:
        """One look per mask; an empty mask is refused."""
        if not len(masks_NHW):
            return ()
        lab_HW3 = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        shapes = [_shape(mask_HW) for mask_HW in masks_NHW]
        cuts = [
            _cut(image_HW3, mask_HW, shape.centre, shape.angle + turn, shape.reach)
            for mask_HW, shape in zip(masks_NHW, shapes, strict=True)
            for turn in (0.0, np.pi)
        ]
        # Which end of the long axis comes first is nobody's business: both ways, averaged.
        features_NF = self._features(np.stack(cuts)).reshape(len(shapes), 2, -1).mean(1)
        features_NF /= np.linalg.norm(features_NF, axis=1, keepdims=True) + 1e-6
        looks = []
        for mask_HW, shape, features_F in zip(masks_NHW, shapes, features_NF, strict=True):
            lab_3, texture = _colour(lab_HW3, mask_HW)
            size = float(np.sqrt(shape.area)) / frame.size
            upright = _cut(image_HW3, mask_HW, shape.centre, frame.angle, shape.reach)
            turned = None
            if shape.elongation >= ROUND:
                turned = float(np.rad2deg(shape.angle - frame.angle) % 180)
            lightness, red, yellow = lab_3.tolist()
            looks.append(
                PartDescriptor(
                    shape.centre, size, turned, (lightness, red, yellow),
                    vector_of(lab_3, texture, size, shape, features_F), _face(upright),
                )
            )  # fmt: skip
        return tuple(looks)


@dataclass(frozen=True, slots=True)
class Shape:
    """A mask in numbers: pixels, radians, ratios."""

    centre: tuple[float, float]
    area: float
    angle: float
    elongation: float
    solidity: float
    holes: float
    reach: float


def vector_of(
    lab_3: np.ndarray, texture: float, size: float, shape: Shape, features_F: np.ndarray
) -> np.ndarray:
    """The numbers that types are told by, float32 (8 + F,), in units of usual differences."""
    plain = [
        *(lab_3 / COLOUR_UNIT),
        texture / TEXTURE_UNIT,
        np.log(max(size, 1e-4)) / SIZE_UNIT,
        np.log(shape.elongation) / LENGTH_UNIT,
        shape.solidity / OUTLINE_UNIT,
        shape.holes / OUTLINE_UNIT,
    ]
    return np.concatenate([np.array(plain), features_F / FEATURE_UNIT]).astype(np.float32)


def _shape(mask_HW: np.ndarray) -> Shape:
    mask_u8 = mask_HW.astype(np.uint8)
    outlines, _ = cv2.findContours(mask_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask_u8), outlines, -1, 1, cv2.FILLED)
    area, whole = float(mask_HW.sum()), float(filled.sum())
    hull = cv2.convexHull(np.concatenate(outlines))
    body = float(cv2.fillConvexPoly(np.zeros_like(mask_u8), hull, 1).sum())
    m = cv2.moments(filled, binaryImage=True)
    x, y = m["m10"] / m["m00"], m["m01"] / m["m00"]
    spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / m["m00"] + np.eye(2) / 12
    values, axes = np.linalg.eigh(spread)
    elongation = float(np.sqrt(values[1] / values[0]))
    angle = float(np.arctan2(axes[1, 1], axes[0, 1])) if elongation >= ROUND else 0.0
    points = np.concatenate(outlines)[:, 0, :] - (x, y)
    reach = float(np.abs(points @ axes).max()) + 1
    if elongation < ROUND:
        reach = float(np.linalg.norm(points, axis=1).max()) + 1
    return Shape(
        (x, y), area, angle, elongation, whole / max(body, 1), (whole - area) / whole, reach
    )


def _cut(
    image_HW3: np.ndarray,
    mask_HW: np.ndarray,
    centre: tuple[float, float],
    angle: float,
    reach: float,
) -> np.ndarray:
    """The part alone on grey, turned by -angle, its half length `reach` made to fit (S, S, 3)."""
    scale = FILL * SIDE / 2 / reach
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = centre
    move = np.array([[c, s, SIDE / 2 - c * x - s * y], [-s, c, SIDE / 2 + s * x - c * y]])
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    colours = cv2.warpAffine(
        image_HW3, move, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    inside = cv2.warpAffine(mask_HW.astype(np.float32), move, (SIDE, SIDE), flags=cv2.INTER_LINEAR)
    alpha = inside[..., None]
    return np.rint(alpha * colours + (1 - alpha) * np.array(GREY, np.float32)).astype(np.uint8)


def _colour(lab_HW3: np.ndarray, mask_HW: np.ndarray) -> tuple[np.ndarray, float]:
    """Mean colour and deviation of lightness, away from the outline where there is room."""
    core_HW = cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    pixels = lab_HW3[core_HW if core_HW.sum() >= 0.3 * mask_HW.sum() else mask_HW]
    return pixels.mean(0), float(pixels[:, 0].std())


def _face(cut_SS3: np.ndarray) -> np.ndarray:
    """8 x 8 lightness of a cut-out, zero mean and unit length, float32 (64,)."""
    grey = cv2.resize(
        cv2.cvtColor(cut_SS3, cv2.COLOR_RGB2GRAY), (8, 8), interpolation=cv2.INTER_AREA
    )
    face = grey.astype(np.float32).ravel()
    face -= face.mean()
    return face / (np.linalg.norm(face) + 1e-6)


@lru_cache(maxsize=1)
def _bundled_features() -> Any:
    import torch

    from pipeline.models.backbone import normalise, small_teacher
    from pipeline.models.weights import store as weights

    teacher = small_teacher(weights.require("bundled-teacher"))

    def features(cuts_NSS3: np.ndarray) -> np.ndarray:
        pictures = normalise(torch.from_numpy(cuts_NSS3).permute(0, 3, 1, 2))
        with torch.inference_mode():
            levels = teacher(pictures)
        return torch.cat([level.mean((2, 3)) for level in levels[1:]], 1).numpy()

    return features
