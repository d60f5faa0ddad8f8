"""Appearance descriptors of parts, independent of position and orientation.

A `PartDescriptor` holds what rules refer to (centre, size, colour, orientation) and one vector by
which kinds are distinguished: colour, size, outline, and features of the frozen bundled teacher,
all roughly of one scale. Before the teacher sees a part, it is rotated onto its long axis and
composited on grey, so neither its orientation nor its neighbours matter.

Shapes: N parts; H, W image; S = 64 side of a crop; C = vector length; F features.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np

# Side of a crop in pixels, and the share of it that the part fills.
SIDE = 64
FILL = 0.75
# Background of a crop: the mean colour of the teacher's training images, the weakest stimulus.
GREY = (124, 116, 104)
# Aspect ratio below which a part counts as round and has no long axis.
ROUND = 1.15

# One unit of distance per group of dimensions of a vector, so that the groups are roughly of one
# scale; `part_kinds.space.Space` measures the finer one.
# CIELAB distance.
COLOUR_UNIT = 8.0
# Standard deviation of lightness.
TEXTURE_UNIT = 8.0
# Logarithm of the square root of the area.
SIZE_UNIT = 0.15
# Logarithm of the aspect ratio.
LENGTH_UNIT = 0.20
# Solidity, and share of holes.
OUTLINE_UNIT = 0.08
# Distance of unit vectors.
FEATURE_UNIT = 0.12


@dataclass(frozen=True, slots=True, eq=False)
class PartDescriptor:
    """One part. `centre` in pixels; `size` is the square root of its area in product units.

    `angle` is that of its long axis relative to the product, in [0, 180) degrees, None for round
    parts. `lab` is the mean CIELAB colour. `face_S` is a normalised 8 x 8 thumbnail of its
    lightness in the product's orientation, which tells which side is up.
    """

    centre: tuple[float, float]
    size: float
    angle: float | None
    lab: tuple[float, float, float]
    vector_C: np.ndarray
    face_S: np.ndarray


class Describer:
    """Describes masked parts; `features` maps crops (N, S, S, 3) uint8 to (N, F) float32."""

    def __init__(self, features: Any) -> None:
        self._features = features

    @classmethod
    def bundled(cls) -> "Describer":
        """With features of the teacher that the program brings along."""
        return cls(_bundled_features())

    def __call__(
        self, image_HW3: np.ndarray, masks_NHW: np.ndarray, frame: Any
    ) -> tuple[PartDescriptor, ...]:
        """One descriptor per mask (bool); masks must not be empty. `frame` is a `ProductFrame`."""
        if not len(masks_NHW):
            return ()
        lab_HW3 = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        shapes = [_shape(mask_HW) for mask_HW in masks_NHW]
        crops = [
            _crop(image_HW3, mask_HW, shape.centre, shape.angle + turn, shape.reach)
            for mask_HW, shape in zip(masks_NHW, shapes, strict=True)
            for turn in (0.0, np.pi)
        ]
        # A long axis has no direction: describe both directions and average.
        features_NF = self._features(np.stack(crops)).reshape(len(shapes), 2, -1).mean(1)
        features_NF /= np.linalg.norm(features_NF, axis=1, keepdims=True) + 1e-6
        descriptors = []
        for mask_HW, shape, features_F in zip(masks_NHW, shapes, features_NF, strict=True):
            lab_3, texture = _colour(lab_HW3, mask_HW)
            size = float(np.sqrt(shape.area)) / frame.size
            upright = _crop(image_HW3, mask_HW, shape.centre, frame.angle, shape.reach)
            turned = None
            if shape.elongation >= ROUND:
                turned = float(np.rad2deg(shape.angle - frame.angle) % 180)
            lightness, red, yellow = lab_3.tolist()
            descriptors.append(
                PartDescriptor(
                    shape.centre, size, turned, (lightness, red, yellow),
                    vector_of(lab_3, texture, size, shape, features_F), _face(upright),
                )
            )  # fmt: skip
        return tuple(descriptors)


@dataclass(frozen=True, slots=True)
class Shape:
    """Geometry of a mask.

    `centre`, `area` and `reach` (half length) in pixels, `angle` of the long axis in radians,
    `elongation` the aspect ratio, `solidity` the filled area per convex hull, `holes` the share of
    the filled area.
    """

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
    """The vector by which kinds are distinguished, (8 + F,) float32, in units of usual differences.

    `recognition.PLAIN` and `recognition.columns_of` depend on the order.
    """
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
    """The geometry of a mask that is not empty."""
    # Fill holes first: highlights that a mask misses must not move centre and axis.
    mask_u8 = mask_HW.astype(np.uint8)
    outlines, _ = cv2.findContours(mask_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(np.zeros_like(mask_u8), outlines, -1, 1, cv2.FILLED)
    area, whole = float(mask_HW.sum()), float(filled.sum())
    hull = cv2.convexHull(np.concatenate(outlines))
    body = float(cv2.fillConvexPoly(np.zeros_like(mask_u8), hull, 1).sum())
    m = cv2.moments(filled, binaryImage=True)
    x, y = m["m10"] / m["m00"], m["m01"] / m["m00"]
    spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / m["m00"] + np.eye(2) / 12
    # Axes from second central moments; 1/12 is the variance of a pixel's own extent.
    values, axes = np.linalg.eigh(spread)
    elongation = float(np.sqrt(values[1] / values[0]))
    angle = float(np.arctan2(axes[1, 1], axes[0, 1])) if elongation >= ROUND else 0.0
    points = np.concatenate(outlines)[:, 0, :] - (x, y)
    reach = float(np.abs(points @ axes).max()) + 1
    # Round parts have no axis along which to measure: use the radius.
    if elongation < ROUND:
        reach = float(np.linalg.norm(points, axis=1).max()) + 1
    return Shape(
        (x, y), area, angle, elongation, whole / max(body, 1), (whole - area) / whole, reach
    )


def _crop(
    image_HW3: np.ndarray,
    mask_HW: np.ndarray,
    centre: tuple[float, float],
    angle: float,
    reach: float,
) -> np.ndarray:
    """The part on grey, (S, S, 3) uint8, rotated by -angle and scaled so that `reach` fits."""
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
    """Mean CIELAB colour and standard deviation of lightness, without the rim where possible."""
    core_HW = cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    pixels = lab_HW3[core_HW if core_HW.sum() >= 0.3 * mask_HW.sum() else mask_HW]
    return pixels.mean(0), float(pixels[:, 0].std())


def _face(crop_SS3: np.ndarray) -> np.ndarray:
    """8 x 8 lightness of a crop, zero mean and unit length, (64,) float32."""
    grey = cv2.resize(
        cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2GRAY), (8, 8), interpolation=cv2.INTER_AREA
    )
    face = grey.astype(np.float32).ravel()
    face -= face.mean()
    return face / (np.linalg.norm(face) + 1e-6)


# One network per process, loaded on first use.
@lru_cache(maxsize=1)
def _bundled_features() -> Any:
    import torch

    from pipeline.models.backbone import normalise, small_teacher
    from pipeline.models.weights import store as weights

    teacher = small_teacher(weights.require("bundled-teacher"))

    def features(crops_NSS3: np.ndarray) -> np.ndarray:
        images = normalise(torch.from_numpy(crops_NSS3).permute(0, 3, 1, 2))
        with torch.inference_mode():
            levels = teacher(images)
        return torch.cat([level.mean((2, 3)) for level in levels[1:]], 1).numpy()

    return features
