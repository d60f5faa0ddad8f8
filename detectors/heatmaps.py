"""Anomaly maps as pictures: heat over a pale photograph for people, 16-bit grey for programs.

Heat has one scale for a whole page or run, so pictures can be compared: nothing is drawn at and
below `low`, full colour stands at and above `high`. It says where, not whether: the verdict hangs
on the image score.

Shapes: H, W picture; 3 colour (RGB).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from detectors.base import Batches, Detector
from pipeline.models.device import Compute

_RAMP = np.array([(255, 214, 90), (250, 140, 40), (226, 48, 62), (150, 12, 92)], np.float32)
"""Light to dark, so that stronger is stronger also in grey."""
_STRONGEST = 0.88
_OUTLINE = (255, 46, 136)
DEEP = 65535
_LOOKED_AT = 32
"""Normal images whose maps make a scale: some two million pixels at 256 px."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The map values at which heat begins and at which it is full."""

    low: float
    high: float

    def share(self, map_HW: np.ndarray) -> np.ndarray:
        """0 at and below `low`, 1 at and above `high`; float32."""
        span = self.high - self.low
        if span <= 0:
            return (map_HW > self.low).astype(np.float32)
        return np.clip((map_HW - self.low) / span, 0, 1).astype(np.float32)


def scale_of(normal_maps: Iterable[np.ndarray]) -> Scale:
    """A scale from maps of normal images: heat begins where 1 % of their pixels lie.

    It is full twice as far above that as 99.9 % of the pixels reach above the median; so what
    normal images reach stays pale, and what they never reach is dark.
    """
    pixels = np.concatenate([np.asarray(one, np.float32).ravel() for one in normal_maps])
    middle, low, top = np.quantile(pixels, [0.5, 0.99, 0.999]).tolist()
    return Scale(low, low + 2 * (top - middle))


def normal_heat(
    detector: Detector, normals: Batches, compute: Compute
) -> tuple[float, float] | None:
    """The ends of the scale from maps of the first validation normals; None without any."""
    maps = list(islice(_maps(detector, normals, compute), _LOOKED_AT))
    if not maps:
        return None
    scale = scale_of(maps)
    return scale.low, scale.high


@torch.no_grad()
def _maps(detector: Detector, normals: Batches, compute: Compute) -> Iterator[np.ndarray]:
    detector.eval()
    for batch in normals:
        with compute.autocast():
            maps_BHW = detector(batch["image"]).maps_BHW
        yield from maps_BHW.float().cpu().numpy()


def over(image_HW3: np.ndarray, map_HW: np.ndarray, scale: Scale) -> np.ndarray:
    """The photograph grey and pale with the heat above it; (H, W, 3) uint8."""
    share_HW = scale.share(map_HW)
    steps = np.linspace(0, 1, len(_RAMP))
    colour_HW3 = np.stack([np.interp(share_HW, steps, channel) for channel in _RAMP.T], -1)
    alpha_HW1 = (np.sqrt(share_HW) * _STRONGEST)[..., None]
    pale_HW1 = image_HW3.mean(2, keepdims=True, dtype=np.float32) * 0.62 + 78
    blend_HW3: np.ndarray = pale_HW1 * (1 - alpha_HW1) + colour_HW3 * alpha_HW1
    return blend_HW3.round().astype(np.uint8)


def outlined(image_HW3: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The photograph with the mask's border in colour and a faint tint inside; (H, W, 3) uint8."""
    import cv2

    mask = mask_HW.astype(np.uint8)
    kernel = np.ones((3, 3), np.uint8)
    # The frame counts as inside, so that a mask that fills the picture has no border line there.
    line_HW = cv2.dilate(mask, kernel) > cv2.erode(mask, kernel)
    rim_HW = (cv2.dilate(mask, np.ones((7, 7), np.uint8)) > 0) & ~mask_HW & ~line_HW
    accent = np.array(_OUTLINE, np.float32)
    picture: np.ndarray = image_HW3.astype(np.float32)
    picture[mask_HW] = picture[mask_HW] * 0.84 + accent * 0.16
    picture[rim_HW] *= 0.55
    picture[line_HW] = accent
    return picture.round().astype(np.uint8)


def deep_grey(map_HW: np.ndarray) -> tuple[np.ndarray, Scale]:
    """The map as (H, W) uint16 from its lowest to its highest value, and these two values.

    `low + grey / 65535 * (high - low)` gives the map back, to half a step.
    """
    scale = Scale(float(map_HW.min()), float(map_HW.max()))
    grey_HW = np.round(scale.share(map_HW).astype(np.float64) * DEEP).astype(np.uint16)
    return grey_HW, scale
