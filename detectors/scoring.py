"""Scores and maps of images, the way evaluation, prediction and reports all get them.

Images come as they are stored, uint8 of any size; the detector sees them at its own. Maps go back
to the size that the caller names, bilinear, because ground truth is never resized to suit a map.

Shapes: B batch; H, W picture as stored; S, S picture as the detector takes it; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Detector
from detectors.data.resize import fitted
from pipeline.errors import UserError
from pipeline.models.device import Compute


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """`scores_B` float32; `maps_BHW` float32 at the size that was asked for. All finite."""

    scores_B: np.ndarray
    maps_BHW: np.ndarray


def stacked(images: Sequence[np.ndarray]) -> Tensor:
    """(B, 3, H, W) uint8 from (H, W, 3) pictures of one size, in channels_last memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def score(
    detector: Detector,
    compute: Compute,
    images_B3HW: Tensor,
    size_HW: tuple[int, int] | None = None,
) -> Scored:
    """Score a batch of uint8 images; maps at `size_HW`, or as the detector gives them.

    UserError when a score or a map is not finite: such a detector did not train.
    """
    images = fitted(images_B3HW.to(compute.device), detector.settings.size)
    detector.eval()
    with compute.autocast():
        image_B, maps_BSS = detector(images)
    scored = Scored(
        image_B.float().cpu().numpy(), enlarged(maps_BSS.float(), size_HW).cpu().numpy()
    )
    for what, values in (("image score", scored.scores_B), ("map", scored.maps_BHW)):
        if not np.isfinite(values).all():
            raise UserError(
                f"{type(detector).__name__} gave a {what} that is not a finite number; it did not "
                "train, or its checkpoint is for another kind of image: look at its losses"
            )
    return scored


def enlarged(maps_BSS: Tensor, size_HW: tuple[int, int] | None) -> Tensor:
    """Maps at another size, bilinear; averaged over what they shrink to, as images are."""
    if size_HW is None or tuple(maps_BSS.shape[1:]) == tuple(size_HW):
        return maps_BSS
    return F.interpolate(
        maps_BSS[:, None], size_HW, mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
