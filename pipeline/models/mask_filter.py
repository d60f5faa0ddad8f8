"""Limits that masks must satisfy: quality, size, place, one component, no duplicates.

Masks are filtered at logit resolution, where a pixel costs a quarter or less, and as bits: counting
them is exact, and much faster than summing booleans or floats.

Shapes: N masks; C components of the foreground; H, W image; h, w logits; K words of 64 pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from pipeline.imaging.masks import window
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

# Bytes of logits that are compared at once: they stay in the processor's cache.
AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class MaskBits:
    """Masks at logit resolution as bits, with what the limits on their outlines compare.

    `bits_NK` is uint64. `surely_N` and `maybe_N` are float32 counts of the pixels whose logits
    exceed the offset of the stability score, and its negative.
    """

    bits_NK: np.ndarray
    surely_N: np.ndarray
    maybe_N: np.ndarray

    @classmethod
    def of(cls, logits_Nhw: torch.Tensor) -> "MaskBits":
        """The masks where logits, on any device, are positive."""
        rows = max(1, AT_ONCE // max(1, 4 * logits_Nhw[:1].numel()))
        mask_NK, surely_NK, maybe_NK = (
            np.concatenate([_above(part_Nhw, level) for part_Nhw in logits_Nhw.split(rows)])
            for level in (0.0, STABILITY_OFFSET, -STABILITY_OFFSET)
        )
        return cls(mask_NK, _counted(surely_NK), _counted(maybe_NK))

    def first(self, count: int) -> "MaskBits":
        """The first masks alone."""
        return MaskBits(self.bits_NK[:count], self.surely_N[:count], self.maybe_N[:count])


def passes(
    masks: MaskBits, iou_N: np.ndarray, inside_hw: np.ndarray, settings: ProposalSettings
) -> np.ndarray:
    """Which masks satisfy the limits on quality, area, foreground and border; bool (N,).

    `iou_N` is float32, `inside_hw` bool.
    """
    frame_hw = np.ones_like(inside_hw)
    frame_hw[1:-1, 1:-1] = False
    area_N, overlap_N, border_N = (
        _counted(masks.bits_NK & packed(region_hw[None]))
        for region_hw in (np.ones_like(inside_hw), inside_hw, frame_hw)
    )
    # Limits are compared as products, so that an empty mask divides nothing by zero.
    share_N = area_N / inside_hw.size
    most, border = np.float32(np.count_nonzero(inside_hw)), np.float32(np.count_nonzero(frame_hw))
    found_N: np.ndarray = (
        (iou_N >= (settings.min_predicted_iou or 0.0))
        & (masks.surely_N >= (settings.min_stability or 0.0) * masks.maybe_N)
        & (share_N >= settings.min_area)
        & (share_N <= settings.max_area)
        & (overlap_N >= settings.min_foreground_overlap * area_N)
        & (overlap_N <= settings.max_foreground_share * most)
        & (border_N <= settings.max_border * border)
    )
    return found_N


def confirmed(bits_NK: np.ndarray, labels_hw: np.ndarray) -> np.ndarray:
    """The component of the foreground that each mask shows, by its label; 0 for none; int64 (N,).

    Of slender parts (a key, a pencil) the small SAM is never sure, but its mask agrees with what
    U²-Net found there. `labels_hw` are the components at logit resolution, 0 is the background.
    """
    label_C = np.unique(labels_hw[labels_hw > 0])
    if not len(label_C):
        return np.zeros(len(bits_NK), np.int64)
    components_CK = packed(labels_hw == label_C[:, None, None])
    shared_NC = np.stack([_counted(bits_NK & one_K) for one_K in components_CK], 1)
    either_NC = _counted(bits_NK)[:, None] + _counted(components_CK) - shared_NC
    iou_NC = shared_NC.astype(np.float64) / np.maximum(either_NC, 1)
    best_N = iou_NC.argmax(1)
    agrees_N = np.take_along_axis(iou_NC, best_N[:, None], 1)[:, 0] >= AGREES
    return np.where(agrees_N, label_C[best_N], 0)


def without_duplicates(bits_NK: np.ndarray, max_iou: float) -> np.ndarray:
    """Non-maximum suppression of masks in their order: indices whose IoU with kept ones is low."""
    area_N = np.bitwise_count(bits_NK).sum(1, np.int64)
    kept: list[int] = []
    for index, bits_K in enumerate(bits_NK):
        shared_k = np.bitwise_count(bits_NK[kept] & bits_K).sum(1, np.int64)
        union_k = np.maximum(area_N[kept] + area_N[index] - shared_k, 1)
        if not (shared_k > max_iou * union_k).any():
            kept.append(index)
    return np.array(kept, np.int64)


def packed(masks_NHW: np.ndarray) -> np.ndarray:
    """The pixels of bool masks as bits, (N, K) uint64: counting bits gives exact areas."""
    count, height, width = masks_NHW.shape
    bits_NK = np.packbits(masks_NHW.reshape(count, height * width), axis=1)
    return np.pad(bits_NK, ((0, 0), (0, -bits_NK.shape[1] % 8))).view(np.uint64)


def largest_component(mask_HW: np.ndarray) -> tuple[np.ndarray, float]:
    """The largest 8-connected component, closed by 3x3, and its share of the mask's area.

    `mask_HW` is bool. An empty mask comes back with share 0.
    """
    # Only where the mask is, with room for the closing.
    near = window(mask_HW)
    mask_hw = mask_HW[near]
    count, labels_hw, stats, _ = cv2.connectedComponentsWithStats(mask_hw.astype(np.uint8))
    # Label 0 is the background.
    if count < 2:
        return mask_HW, 0.0
    biggest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    share = stats[biggest, cv2.CC_STAT_AREA] / max(int(np.count_nonzero(mask_hw)), 1)
    part_hw = (labels_hw == biggest).astype(np.uint8)
    part_HW = np.zeros_like(mask_HW)
    part_HW[near] = cv2.morphologyEx(part_hw, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    return part_HW, float(share)


def relaxed_settings(settings: ProposalSettings, change: dict[str, float]) -> ProposalSettings:
    """The settings with each limit moved to the one in `change`, unless it is wider already."""
    # A lower limit is wider when it is smaller, an upper limit when it is larger.
    wider = {
        name: (min if name.startswith("min_") else max)(getattr(settings, name) or 0.0, limit)
        for name, limit in change.items()
    }
    return settings.model_copy(update=wider)


def shrink(mask_HW: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The mask at logit resolution; a cell is inside when the mask covers more than half of it."""
    small_hw = cv2.resize(mask_HW.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_AREA)
    return small_hw.astype(np.bool_)


def shrunk_labels(labels_HW: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Labels (int32) at logit resolution, those of the nearest pixels."""
    labels_hw = cv2.resize(
        labels_HW.astype(np.float32), size_hw[::-1], interpolation=cv2.INTER_NEAREST
    )
    return labels_hw.astype(np.int64)


def _above(logits_Nhw: torch.Tensor, level: float) -> np.ndarray:
    """Where logits exceed a level, as bits."""
    # NumPy compares seven times faster than torch does on a CPU.
    on_cpu = logits_Nhw.device.type == "cpu"
    above_Nhw = logits_Nhw.numpy() > level if on_cpu else (logits_Nhw > level).cpu().numpy()
    return packed(above_Nhw)


def _counted(bits_NK: np.ndarray) -> np.ndarray:
    """The pixels of each mask, float32 (N,): exact up to 16 million."""
    counts_N: np.ndarray = np.bitwise_count(bits_NK).sum(1, dtype=np.int64)
    return counts_N.astype(np.float32)
