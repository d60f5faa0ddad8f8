"""Embeddings of parts that tell kinds apart, indifferent to rotation and nearly so to light.

    embed = Embedder(lite0_trunk(path))
    vectors_NC = embed(image_HW3, masks_NHW)

A part is cut out on grey, brought to a common lightness, and shown to a frozen ImageNet network in
several rotations; the features are averaged over its mask and over the rotations. Colour, size and
outline are put before them, because kinds often differ in these alone (a short and a long screw).
Behind them is the *face*, the only part of a vector that depends on rotation.

Shapes: N parts; H, W image; S side of a crop; C length of a vector; R rotations.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from pipeline.imaging.part_shape import FACE_SIDE, PartShape, colour_of, face_of, on_grey, turned
from pipeline.models.backbone import normalise

# Side of a crop in pixels, and the share of it that the part's longest extent fills.
SIDE, FILL = 64, 0.85
# Crops per part, at equal angles: pooled features change little in between.
ROTATIONS = 4
# Parts whose crops run through the network at once.
BATCH = 16
# Mean lightness (CIELAB) that every part is brought to before the network sees it.
LIGHTNESS = 55.0
# Leading dimensions of a vector that are no features, see `_plain`.
PLAIN = 7
# One unit of distance of these: CIELAB lightness (light changes it most), a and b, standard
# deviation of lightness, logarithm of the square root of the area, logarithm of the aspect ratio,
# share of the convex hull that is covered.
UNITS = (12.0, 5.0, 5.0, 8.0, 0.12, 0.20, 0.08)
# One unit of distance of unit-length feature vectors, per level.
FEATURE_UNIT = 0.12
# Trailing dimensions: the lightness of the upright part on a grid, which tells how it is turned.
FACE = FACE_SIDE**2

# (N, 3, S, S) uint8 -> feature maps of several levels.
Features = Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True, slots=True)
class Embedder:
    """Embeds masked parts with the coarser two levels of a frozen trunk (`backbone.Trunk`)."""

    trunk: Callable[[Tensor], tuple[Tensor, ...]]

    def __call__(self, image_HW3: np.ndarray, masks_NHW: np.ndarray) -> np.ndarray:
        """(N, C) float32 vectors of parts in one image (uint8 RGB); masks (bool) are not empty."""
        if not len(masks_NHW):
            return np.zeros((0, PLAIN + FACE), np.float32)
        lab_HW3 = cv2.cvtColor(image_HW3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        shapes = [PartShape.of(mask_HW) for mask_HW in masks_NHW]
        plain_NP = np.stack([_plain(lab_HW3, m, o) for m, o in zip(masks_NHW, shapes, strict=True)])
        features = [
            self._pooled(lab_HW3, masks_NHW[k : k + BATCH], shapes[k : k + BATCH])
            for k in range(0, len(masks_NHW), BATCH)
        ]
        faces_NS = np.stack(
            [face_of(_crop(lab_HW3, m, o, 0.0)[0]) for m, o in zip(masks_NHW, shapes, strict=True)]
        )
        return np.hstack([plain_NP, np.concatenate(features), faces_NS]).astype(np.float32)

    @torch.inference_mode()
    def _pooled(
        self, lab_HW3: np.ndarray, masks_NHW: np.ndarray, shapes: list[PartShape]
    ) -> np.ndarray:
        """Features averaged over mask and rotations, each level of length 1 / FEATURE_UNIT."""
        crops, covers = [], []
        for mask_HW, shape in zip(masks_NHW, shapes, strict=True):
            for turn in range(ROTATIONS):
                angle = shape.angle + 2 * np.pi * turn / ROTATIONS
                crop_SS3, cover_SS = _crop(lab_HW3, mask_HW, shape, angle)
                crops.append(crop_SS3)
                covers.append(cover_SS)
        images_B3SS = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        cover_B1SS = torch.from_numpy(np.stack(covers))[:, None]
        # Stride 4 sees noise and edges; the coarser levels see what the part is.
        # Convolutions of so few channels are a quarter faster with the channels last.
        inputs_B3SS = normalise(images_B3SS).contiguous(memory_format=torch.channels_last)
        levels = self.trunk(inputs_B3SS)[1:]
        pooled = []
        for level_BChw in levels:
            weight_B1hw = torch.nn.functional.interpolate(
                cover_B1SS, level_BChw.shape[2:], mode="area"
            )
            mean_BC = (level_BChw * weight_B1hw).sum((2, 3)) / weight_B1hw.sum((2, 3)).clamp(1e-6)
            mean_NC = mean_BC.reshape(len(masks_NHW), ROTATIONS, -1).mean(1)
            pooled.append(torch.nn.functional.normalize(mean_NC, dim=1) / FEATURE_UNIT)
        found: np.ndarray = torch.cat(pooled, 1).numpy()
        return found


def _plain(lab_HW3: np.ndarray, mask_HW: np.ndarray, shape: PartShape) -> np.ndarray:
    """Colour, texture, size and outline in their units, (PLAIN,) float64."""
    lab_3, texture = colour_of(lab_HW3, mask_HW)
    # Size in shares of the image, so that it does not depend on the resolution.
    size = np.log(np.sqrt(shape.area / mask_HW.size))
    values = [*lab_3.tolist(), texture, size, np.log(shape.elongation), shape.solidity]
    return np.array(values) / np.array(UNITS)


def _crop(
    lab_HW3: np.ndarray, mask_HW: np.ndarray, shape: PartShape, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """The part on grey, (S, S, 3) uint8 RGB, rotated by -angle; and its cover (S, S) in 0-1."""
    scale = FILL * SIDE / 2 / shape.radius
    lab_SS3, cover_SS = turned(lab_HW3, mask_HW, shape.centre, angle, SIDE, scale)
    # One lightness for all: how bright the lamp was must not look like another kind.
    mean = float((lab_SS3[..., 0] * cover_SS).sum() / max(float(cover_SS.sum()), 1e-6))
    lab_SS3[..., 0] = np.clip(lab_SS3[..., 0] * (LIGHTNESS / max(mean, 5.0)), 0, 100)
    rgb_SS3 = np.clip(cv2.cvtColor(lab_SS3, cv2.COLOR_LAB2RGB), 0, 1) * 255
    return on_grey(rgb_SS3, cover_SS), cover_SS
