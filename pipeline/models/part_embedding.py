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

from pipeline.models.backbone import normalise

# Side of a crop in pixels, and the share of it that the part's longest extent fills.
SIDE, FILL = 64, 0.85
# Crops per part, at equal angles: pooled features change little in between.
ROTATIONS = 4
# Parts whose crops run through the network at once.
BATCH = 16
# Grey behind a part: the mean colour of ImageNet, the weakest stimulus.
GREY = (124, 116, 104)
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
FACE_SIDE = 8
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
        outlines = [_outline(mask_HW) for mask_HW in masks_NHW]
        plain_NP = np.stack(
            [_plain(lab_HW3, m, o) for m, o in zip(masks_NHW, outlines, strict=True)]
        )
        # Size in shares of the image, so that it does not depend on the resolution.
        plain_NP[:, 4] -= np.log(np.sqrt(masks_NHW[0].size)) / UNITS[4]
        features = [
            self._pooled(lab_HW3, masks_NHW[k : k + BATCH], outlines[k : k + BATCH])
            for k in range(0, len(masks_NHW), BATCH)
        ]
        faces_NS = np.stack(
            [_face(_crop(lab_HW3, m, o, 0.0)[0]) for m, o in zip(masks_NHW, outlines, strict=True)]
        )
        return np.hstack([plain_NP, np.concatenate(features), faces_NS]).astype(np.float32)

    @torch.inference_mode()
    def _pooled(
        self, lab_HW3: np.ndarray, masks_NHW: np.ndarray, outlines: list["_Outline"]
    ) -> np.ndarray:
        """Features averaged over mask and rotations, each level of length 1 / FEATURE_UNIT."""
        crops, covers = [], []
        for mask_HW, outline in zip(masks_NHW, outlines, strict=True):
            for turn in range(ROTATIONS):
                angle = outline.angle + 2 * np.pi * turn / ROTATIONS
                crop_SS3, cover_SS = _crop(lab_HW3, mask_HW, outline, angle)
                crops.append(crop_SS3)
                covers.append(cover_SS)
        images_B3SS = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
        cover_B1SS = torch.from_numpy(np.stack(covers))[:, None]
        # Stride 4 sees noise and edges; the coarser levels see what the part is.
        levels = self.trunk(normalise(images_B3SS))[1:]
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


@dataclass(frozen=True, slots=True)
class _Outline:
    """Geometry of a mask: centre and half extent in pixels, angle of the long axis in radians."""

    centre: tuple[float, float]
    reach: float
    angle: float
    area: float
    elongation: float
    solidity: float


def _outline(mask_HW: np.ndarray) -> _Outline:
    mask_u8 = mask_HW.astype(np.uint8)
    contours, _ = cv2.findContours(mask_u8, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points_N2 = np.concatenate(contours)[:, 0, :].astype(np.float32)
    hull = cv2.convexHull(points_N2)
    filled = cv2.drawContours(np.zeros_like(mask_u8), contours, -1, 1, cv2.FILLED)
    # Holes are filled first: a highlight that the mask misses must not move centre and axis.
    moments = cv2.moments(filled, binaryImage=True)
    x, y = moments["m10"] / moments["m00"], moments["m01"] / moments["m00"]
    spread = np.array([[moments["mu20"], moments["mu11"]], [moments["mu11"], moments["mu02"]]])
    # 1/12 is the variance of a pixel's own extent; a single line of pixels has no width without it.
    values, axes = np.linalg.eigh(spread / moments["m00"] + np.eye(2) / 12)
    return _Outline(
        (x, y),
        float(np.linalg.norm(points_N2 - (x, y), axis=1).max()) + 1,
        float(np.arctan2(axes[1, 1], axes[0, 1])),
        float(np.count_nonzero(mask_HW)),
        float(np.sqrt(values[1] / values[0])),
        float(filled.sum()) / max(float(cv2.contourArea(hull)) + len(hull), 1.0),
    )


def _plain(lab_HW3: np.ndarray, mask_HW: np.ndarray, outline: _Outline) -> np.ndarray:
    """Colour, texture, size and outline in their units, (PLAIN,) float64."""
    # Without the rim, whose pixels mix with the background.
    core_HW = cv2.erode(mask_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if np.count_nonzero(core_HW) < 0.3 * outline.area:
        core_HW = mask_HW
    pixels = lab_HW3[core_HW]
    values = [
        *pixels.mean(0).tolist(),
        float(pixels[:, 0].std()),
        float(np.log(np.sqrt(outline.area))),
        float(np.log(outline.elongation)),
        min(outline.solidity, 1.0),
    ]
    return np.array(values) / np.array(UNITS)


def _crop(
    lab_HW3: np.ndarray, mask_HW: np.ndarray, outline: _Outline, angle: float
) -> tuple[np.ndarray, np.ndarray]:
    """The part on grey, (S, S, 3) uint8 RGB, rotated by -angle; and its cover (S, S) in 0-1."""
    scale = FILL * SIDE / 2 / outline.reach
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    x, y = outline.centre
    move = np.array([[c, s, SIDE / 2 - c * x - s * y], [-s, c, SIDE / 2 + s * x - c * y]])
    # Warp a window only: on a large image the whole would cost more than the network.
    flags = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    lab_SS3 = cv2.warpAffine(
        lab_HW3, move, (SIDE, SIDE), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    cover_SS = cv2.warpAffine(mask_HW.astype(np.float32), move, (SIDE, SIDE), flags=flags)
    # One lightness for all: how bright the lamp was must not look like another kind.
    mean = float((lab_SS3[..., 0] * cover_SS).sum() / max(float(cover_SS.sum()), 1e-6))
    lab_SS3[..., 0] = np.clip(lab_SS3[..., 0] * (LIGHTNESS / max(mean, 5.0)), 0, 100)
    rgb_SS3 = np.clip(cv2.cvtColor(lab_SS3, cv2.COLOR_LAB2RGB), 0, 1) * 255
    alpha = cover_SS[..., None]
    on_grey = alpha * rgb_SS3 + (1 - alpha) * np.array(GREY, np.float32)
    return np.rint(on_grey).astype(np.uint8), cover_SS


def _face(crop_SS3: np.ndarray) -> np.ndarray:
    """The lightness of an upright crop on a grid, with zero mean and unit length, (FACE,)."""
    grey_SS = cv2.cvtColor(crop_SS3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    grid = cv2.resize(grey_SS, (FACE_SIDE, FACE_SIDE), interpolation=cv2.INTER_AREA).ravel()
    grid -= grid.mean()
    face_S: np.ndarray = grid / (np.linalg.norm(grid) + 1e-6)
    return face_S
