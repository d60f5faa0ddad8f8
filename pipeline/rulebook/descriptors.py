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

from pipeline.imaging.part_shape import PartShape, colour_of, face_of, on_grey, turned

# Side of a crop in pixels, and the share of it that the part fills.
SIDE = 64
FILL = 0.75
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
        shapes = [PartShape.of(mask_HW) for mask_HW in masks_NHW]
        crops = [
            _crop(image_HW3, mask_HW, shape, _axis(shape) + turn)
            for mask_HW, shape in zip(masks_NHW, shapes, strict=True)
            for turn in (0.0, np.pi)
        ]
        # A long axis has no direction: describe both directions and average.
        features_NF = self._features(np.stack(crops)).reshape(len(shapes), 2, -1).mean(1)
        features_NF /= np.linalg.norm(features_NF, axis=1, keepdims=True) + 1e-6
        descriptors = []
        for mask_HW, shape, features_F in zip(masks_NHW, shapes, features_NF, strict=True):
            lab_3, texture = colour_of(lab_HW3, mask_HW)
            size = float(np.sqrt(shape.area)) / frame.size
            upright = _crop(image_HW3, mask_HW, shape, frame.angle)
            turned = None
            if shape.elongation >= ROUND:
                turned = float(np.rad2deg(shape.angle - frame.angle) % 180)
            lightness, red, yellow = lab_3.tolist()
            descriptors.append(
                PartDescriptor(
                    shape.centre, size, turned, (lightness, red, yellow),
                    vector_of(lab_3, texture, size, shape, features_F), face_of(upright),
                )
            )  # fmt: skip
        return tuple(descriptors)


def vector_of(
    lab_3: np.ndarray, texture: float, size: float, shape: PartShape, features_F: np.ndarray
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


def _axis(shape: PartShape) -> float:
    """The angle of the long axis; 0 for a round part, which has none."""
    return shape.angle if shape.elongation >= ROUND else 0.0


def _crop(image_HW3: np.ndarray, mask_HW: np.ndarray, shape: PartShape, angle: float) -> np.ndarray:
    """The part on grey, (S, S, 3) uint8, rotated by -angle and scaled so that its reach fits."""
    # Round parts have no axis along which to measure: use the radius.
    reach = shape.radius if shape.elongation < ROUND else shape.reach
    scale = FILL * SIDE / 2 / reach
    return on_grey(*turned(image_HW3, mask_HW, shape.centre, angle, SIDE, scale))


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
