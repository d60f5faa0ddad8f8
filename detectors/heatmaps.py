"""Anomaly maps as images: a heatmap over a pale photograph for people, 16-bit grey for programs.

One scale serves a whole page or run, so heatmaps can be compared: nothing is drawn at or below
`low`, full colour at or above `high`. A heatmap shows where the anomaly is; whether an image is
anomalous is decided by its image score.

Shapes: H, W image; 3 colour (RGB).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from detectors.base import Batches, Detector
from pipeline.models.device import Compute

# Colours from low to high. They go from light to dark, so the order survives a print in grey.
_RAMP = np.array([(255, 214, 90), (250, 140, 40), (226, 48, 62), (150, 12, 92)], np.float32)
# Opacity of the heatmap at its strongest; the photograph always shines through.
_STRONGEST = 0.88
# Pink for ground-truth outlines, which tells them from the colours of the ramp.
_OUTLINE = (255, 46, 136)
UINT16_MAX = 65535
# Normal images whose maps set the scale: about two million pixels at 256 px.
_SCALE_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Scale:
    """The map values at which the heatmap begins and at which it has full colour."""

    low: float
    high: float

    def share(self, map_HW: np.ndarray) -> np.ndarray:
        """0 at and below `low`, 1 at and above `high`; float32."""
        span = self.high - self.low
        # A constant map has no range to divide by.
        if span <= 0:
            return (map_HW > self.low).astype(np.float32)
        return np.clip((map_HW - self.low) / span, 0, 1).astype(np.float32)


def scale_of(normal_maps: Iterable[np.ndarray]) -> Scale:
    """A scale from maps of normal images: `low` is the 99 % quantile of their pixels.

    `high` lies above `low` by twice the distance from the median to the 99.9 % quantile. Values
    that normal images reach stay pale, and values that they never reach become dark.
    """
    pixels = np.concatenate([np.asarray(one, np.float32).ravel() for one in normal_maps])
    middle, low, top = np.quantile(pixels, [0.5, 0.99, 0.999]).tolist()
    return Scale(low, low + 2 * (top - middle))


def normal_map_range(
    detector: Detector, normals: Batches, compute: Compute
) -> tuple[float, float] | None:
    """`low` and `high` from maps of the first validation normals; None when there are none."""
    maps = list(islice(_maps(detector, normals, compute), _SCALE_IMAGES))
    if not maps:
        return None
    scale = scale_of(maps)
    return scale.low, scale.high


@torch.no_grad()
def _maps(detector: Detector, normals: Batches, compute: Compute) -> Iterator[np.ndarray]:
    """One float32 map (size, size) after another."""
    detector.eval()
    for batch in normals:
        with compute.autocast():
            maps_BHW = detector(batch["image"]).maps_BHW
        yield from maps_BHW.float().cpu().numpy()


def overlay(image_HW3: np.ndarray, map_HW: np.ndarray, scale: Scale) -> np.ndarray:
    """The heatmap over the photograph in pale grey; (H, W, 3) uint8."""
    share_HW = scale.share(map_HW)
    steps = np.linspace(0, 1, len(_RAMP))
    colour_HW3 = np.stack([np.interp(share_HW, steps, channel) for channel in _RAMP.T], -1)
    # The square root lifts weak values, which a linear opacity would hide.
    alpha_HW1 = (np.sqrt(share_HW) * _STRONGEST)[..., None]
    # Grey values from 78 to 236: neither black nor white competes with the colours.
    pale_HW1 = image_HW3.mean(2, keepdims=True, dtype=np.float32) * 0.62 + 78
    blend_HW3: np.ndarray = pale_HW1 * (1 - alpha_HW1) + colour_HW3 * alpha_HW1
    return blend_HW3.round().astype(np.uint8)


def outline_mask(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The photograph with the mask's border in colour and a faint tint inside; (H, W, 3) uint8."""
    # The only function here that needs OpenCV; the trainer imports this module, too.
    import cv2

    mask = mask_HW.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    # OpenCV treats pixels beyond the image as part of the mask here, so a mask that fills the image
    # gets no line along the image border.
    line_HW = cv2.dilate(mask, kernel) > cv2.erode(mask, kernel)
    # A dark rim around the line keeps it visible on bright and on pink surfaces.
    rim_HW = (cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0) & ~mask_HW & ~line_HW
    accent = np.array(_OUTLINE, np.float32)
    drawn_HW3: np.ndarray = image_HW3.astype(np.float32)
    drawn_HW3[mask_HW] = drawn_HW3[mask_HW] * 0.84 + accent * 0.16
    drawn_HW3[rim_HW] *= 0.55
    drawn_HW3[line_HW] = accent
    return drawn_HW3.round().astype(np.uint8)


def to_uint16(map_HW: np.ndarray) -> tuple[np.ndarray, Scale]:
    """The map as (H, W) uint16, stretched from its lowest to its highest value, and its scale.

    `low + grey / 65535 * (high - low)` restores the map to within half a step.
    """
    scale = Scale(float(map_HW.min()), float(map_HW.max()))
    # In float64, because the product with 65535 would round once more in float32.
    grey_HW = np.round(scale.share(map_HW).astype(np.float64) * UINT16_MAX).astype(np.uint16)
    return grey_HW, scale
