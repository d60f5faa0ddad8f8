"""Scores and maps of images, computed the same way for evaluation, prediction and reports.

Images come as they are stored, uint8 of any size, and are resized to the detector's input size.
Maps are resized (bilinear) to the size that the caller names, because ground-truth masks are never
resized to fit a map.

Shapes: B batch; H, W stored image; S, S input of the detector; 3 colour (RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from detectors.base import Detector, Reason, Region
from detectors.data.resize import resize_images
from pipeline.errors import UserError
from pipeline.models.device import Compute

# What is computed beside scores and maps: nothing, reasons, or reasons and regions.
Explain = Literal["no", "words", "picture"]


@dataclass(frozen=True, slots=True, eq=False)
class ScoredBatch:
    """`scores_B` float32; `maps_BHW` float32 at the requested size. All values are finite.

    `reasons` and `regions` are those of each image, in pixels of the detector's input; empty unless
    they were asked for and the detector has some.
    """

    scores_B: np.ndarray
    maps_BHW: np.ndarray
    reasons: Sequence[Sequence[Reason]] = ()
    regions: Sequence[Sequence[Region]] = ()


def stack_images(images: Sequence[np.ndarray]) -> Tensor:
    """(B, 3, H, W) uint8 from (H, W, 3) images of one size, in channels_last memory."""
    # A permuted view of (B, H, W, 3) memory is what PyTorch calls channels_last: nothing is copied.
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@torch.inference_mode()
def score(
    detector: Detector,
    compute: Compute,
    images_B3HW: Tensor,
    size_HW: tuple[int, int] | None = None,
    explain: Explain = "no",
) -> ScoredBatch:
    """Score a batch of uint8 images; maps at `size_HW`, or at the detector's input size.

    UserError when a score or a map is not finite, which means that training diverged.
    """
    # The same resize as in training.
    images = resize_images(images_B3HW.to(compute.device), detector.settings.size)
    # A detector in training mode would use dropout and batch statistics.
    detector.eval()
    with compute.autocast():
        image_B, maps_BSS = detector(images)
        nothing: list[list[Any]] = [[] for _ in images]
        reasons = detector.reasons(images) if explain != "no" else nothing
        regions = detector.regions(images) if explain == "picture" else nothing
    # Back to float32 before resizing: bfloat16 has only 8 significant bits.
    scored = ScoredBatch(
        image_B.float().cpu().numpy(), resize_maps(maps_BSS.float(), size_HW).cpu().numpy(),
        reasons, regions,
    )  # fmt: skip
    for what, values in (("image score", scored.scores_B), ("map", scored.maps_BHW)):
        if not np.isfinite(values).all():
            raise UserError(
                f"{type(detector).__name__} gave a {what} that is not a finite number: training "
                "diverged, or the checkpoint belongs to other images; check the training losses"
            )
    return scored


def resize_maps(maps_BSS: Tensor, size_HW: tuple[int, int] | None) -> Tensor:
    """Maps (B, S, S) at another size, bilinear with antialias, as images are resized."""
    # Without a change of size the maps stay bit-identical.
    if size_HW is None or tuple(maps_BSS.shape[1:]) == tuple(size_HW):
        return maps_BSS
    return F.interpolate(
        maps_BSS[:, None], size_HW, mode="bilinear", align_corners=False, antialias=True
    )[:, 0]
