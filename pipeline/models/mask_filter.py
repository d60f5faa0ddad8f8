"""Limits that masks must satisfy: quality, size, place, one component, no duplicates.

Masks are filtered at logit resolution, where a pixel costs a quarter or less.

Shapes: N masks; H, W image; h, w logits; K = h x w.
"""

import cv2
import numpy as np
import torch

from pipeline.models.settings import ProposalSettings

# The stability score is the IoU of the masks at logit thresholds +1 and -1, the default of
# segment-anything's automatic mask generator.
STABILITY_OFFSET = 1.0

# Share of the foreground from which a mask is the product itself.
PRODUCT = 0.8

# IoU with a component of the foreground from which a mask is sure without SAM's own estimates.
AGREES = 0.6

# The limits that are relaxed, one step after the other, when no candidate passes.
RELAXATIONS = (
    ("area", {"min_area": 0.0005, "max_area": 0.5, "max_foreground_share": 0.9}),
    ("quality", {"min_predicted_iou": 0.3, "min_stability": 0.6, "min_component": 0.4}),
    ("foreground", {"min_foreground_overlap": 0.5}),
)


def passes(
    logits_Nhw: torch.Tensor,
    iou_N: torch.Tensor,
    inside_hw: torch.Tensor,
    settings: ProposalSettings,
) -> torch.Tensor:
    """Which masks satisfy the limits on quality, area, foreground and border; bool (N,)."""
    frame_hw = torch.ones_like(inside_hw)
    frame_hw[1:-1, 1:-1] = False
    # Count pixels with matrix products: summing booleans is many times slower on a CPU.
    whole_K = inside_hw.new_ones(inside_hw.numel(), dtype=torch.float32)
    each_K3 = torch.stack([whole_K, inside_hw.flatten().float(), frame_hw.flatten().float()], 1)
    flat_NK = logits_Nhw.flatten(1)
    # Compared straight into floats, without a bool array that is converted afterwards.
    above_NK = torch.empty_like(flat_NK)
    area_N, overlap_N, border_N = (torch.gt(flat_NK, 0, out=above_NK) @ each_K3).unbind(1)
    surely_N = torch.gt(flat_NK, STABILITY_OFFSET, out=above_NK) @ whole_K
    maybe_N = torch.gt(flat_NK, -STABILITY_OFFSET, out=above_NK) @ whole_K
    # Limits are compared as products, so that an empty mask divides nothing by zero.
    share_N = area_N / inside_hw.numel()
    return (
        (iou_N >= (settings.min_predicted_iou or 0.0))
        & (surely_N >= (settings.min_stability or 0.0) * maybe_N)
        & (share_N >= settings.min_area)
        & (share_N <= settings.max_area)
        & (overlap_N >= settings.min_foreground_overlap * area_N)
        & (overlap_N <= settings.max_foreground_share * inside_hw.sum())
        & (border_N <= settings.max_border * frame_hw.sum())
    )


def confirmed(masks_Nhw: torch.Tensor, labels_HW: np.ndarray) -> list[int]:
    """The component of the foreground that each mask shows, by its label; 0 for none.

    Of slender parts (a key, a pencil) the small SAM is never sure, but its mask agrees with what
    U²-Net found there. `labels_HW` are the components, 0 is the background.
    """
    size = masks_Nhw.shape[2], masks_Nhw.shape[1]
    labels_hw = cv2.resize(labels_HW.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
    labels_K = labels_hw.ravel().astype(np.int64)
    areas_C = np.bincount(labels_K, minlength=int(labels_HW.max()) + 1)
    found = []
    for mask_hw in masks_Nhw.cpu().numpy():
        shared_C = np.bincount(labels_K[mask_hw.ravel()], minlength=len(areas_C))
        iou_C = shared_C / np.maximum(areas_C + shared_C.sum() - shared_C, 1)
        best = int(iou_C[1:].argmax()) + 1 if len(iou_C) > 1 else 0
        found.append(best if best and iou_C[best] >= AGREES else 0)
    return found


def without_duplicates(masks_Nhw: torch.Tensor, max_iou: float) -> torch.Tensor:
    """Non-maximum suppression of masks in their order: indices whose IoU with kept ones is low."""
    bits_NK = packed(masks_Nhw.cpu().numpy())
    area_N = np.bitwise_count(bits_NK).sum(1, np.int64)
    kept: list[int] = []
    for index, bits_K in enumerate(bits_NK):
        shared_k = np.bitwise_count(bits_NK[kept] & bits_K).sum(1, np.int64)
        union_k = np.maximum(area_N[kept] + area_N[index] - shared_k, 1)
        if not (shared_k > max_iou * union_k).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=masks_Nhw.device)


def packed(masks_NHW: np.ndarray) -> np.ndarray:
    """The pixels of bool masks as bits, (N, K) uint64: counting bits gives exact areas."""
    count, height, width = masks_NHW.shape
    bits_NK = np.packbits(masks_NHW.reshape(count, height * width), axis=1)
    return np.pad(bits_NK, ((0, 0), (0, -bits_NK.shape[1] % 8))).view(np.uint64)


def largest_component(mask_HW: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest 8-connected component, closed by 3x3, and its share of the mask's area.

    `mask_HW` is bool. An empty mask comes back with share 0.
    """
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    # Label 0 is the background.
    if count < 2:
        return mask_HW, 0.0
    biggest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    share = stats[biggest, cv2.CC_STAT_AREA] / max(int(mask_HW.sum()), 1)
    part_HW = (labels_HW == biggest).astype(np.uint8)
    part_HW = cv2.morphologyEx(part_HW, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return part_HW.astype(np.bool_), float(share)


def relaxed_settings(settings: ProposalSettings, change: dict[str, float]) -> ProposalSettings:
    """The settings with each limit moved to the one in `change`, unless it is wider already."""
    # A lower limit is wider when it is smaller, an upper limit when it is larger.
    wider = {
        name: (min if name.startswith("min_") else max)(getattr(settings, name) or 0.0, limit)
        for name, limit in change.items()
    }
    return settings.model_copy(update=wider)


def shrink(mask_HW: np.ndarray, size: torch.Size) -> torch.Tensor:
    """The mask at logit resolution; a cell is inside when the mask covers more than half of it."""
    small = cv2.resize(mask_HW.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small.astype(np.bool_))
