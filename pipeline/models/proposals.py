"""Object proposals: Segment Anything, prompted inside the foreground (Kirillov et al., ICCV 2023).

The image is embedded once and prompted with a lattice of points inside the foreground. Masks are
filtered and de-duplicated at logit resolution; only those that are kept are resized to the image.
This uses the foreground as a spatial prior, as the published method does, and is 25-66 times
cheaper than segment-anything's default 32x32 grid.

Shapes: P prompts; N masks (up to 3 per prompt); H, W image; h, w logits (a quarter of the model's
input side for an official SAM, half of it for the small one); K = h x w.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.models.device import Compute
from pipeline.models.out_of_memory import in_batches
from pipeline.models.settings import ProposalSettings
from pipeline.models.small_sam.decoder import DetailDecoder, decode_confident
from pipeline.records import ForegroundMask, ObjectProposals

# The stability score is the IoU of the masks at logit thresholds +1 and -1, the default of
# segment-anything's automatic mask generator.
STABILITY_OFFSET = 1.0

# The limits that are relaxed, one step after the other, when no candidate passes.
RELAXATIONS = (
    ("area", {"min_area": 0.0005, "max_area": 0.5, "max_foreground_share": 0.9}),
    ("quality", {"min_predicted_iou": 0.3, "min_stability": 0.6, "min_component": 0.4}),
    ("foreground", {"min_foreground_overlap": 0.5}),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """All decoded masks of one image at logit resolution, padding cut off."""

    logits_Nhw: torch.Tensor
    iou_N: torch.Tensor
    scale: tuple[int, int]  # input-frame height and width that the logits were cut from


class SamProposals:
    """A `Sam` with the settings of its filters; call it with an image and its foreground.

    `batch` is the number of point prompts per decoder call; it shrinks when GPU memory runs out.
    """

    def __init__(
        self, sam: Sam, settings: ProposalSettings, compute: Compute, batch: int = 64
    ) -> None:
        self._sam = sam.to(compute.device).eval()
        self._settings = settings
        self._batch = batch
        self._compute = compute
        self._resize = ResizeLongestSide(sam.image_encoder.img_size)

    @property
    def settings(self) -> ProposalSettings:
        """The settings in use, with the thresholds of the backend where the user set none."""
        return self._settings

    def with_settings(self, **changes: Any) -> "SamProposals":
        """The same model with other settings; the weights are shared."""
        settings = self._settings.model_copy(update=changes)
        return SamProposals(self._sam, settings, self._compute, self._batch)

    @torch.inference_mode()
    def __call__(self, image_HW3: np.ndarray, foreground: ForegroundMask) -> ObjectProposals:
        """Objects inside the foreground, highest predicted IoU first; possibly none.

        `image_HW3` is RGB uint8. The result names the relaxations that were needed.
        """
        points_P2 = foreground_points(foreground.mask_HW, self._settings.points)
        candidates = self._decode(image_HW3, points_P2)
        # Decoding is the expensive part. It happens once, and each relaxation only filters again.
        relaxed: tuple[str, ...] = ()
        settings = self._settings
        kept = self._filter(candidates, foreground, settings)
        for name, change in RELAXATIONS:
            if kept is not None:
                break
            relaxed += (name,)
            settings = relaxed_settings(settings, change)
            kept = self._filter(candidates, foreground, settings)
        if kept is None:
            empty_NHW = np.zeros((0, *image_HW3.shape[:2]), np.bool_)
            return ObjectProposals(empty_NHW, np.zeros(0, np.float32), foreground.mask_HW, relaxed)
        return ObjectProposals(*kept, foreground.mask_HW, relaxed)

    def _decode(self, image_HW3: np.ndarray, points_P2: np.ndarray) -> _Candidates:
        """Embed the image once and decode all points in batches that fit into memory."""
        sam, device = self._sam, self._compute.device
        resized = self._resize.apply_image(image_HW3)
        # The longest side fills the model's input, as in segment-anything's SamPredictor.
        pixels_13hw = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float()
        coords = self._resize.apply_coords(points_P2.astype(np.float64), image_HW3.shape[:2])
        coords_P12 = torch.as_tensor(coords, dtype=torch.float32, device=device)[:, None]
        # Masks that even the relaxed limit rejects are not decoded at all.
        min_iou = relaxed_settings(self._settings, RELAXATIONS[1][1]).min_predicted_iou or 0.0
        embedding = self._embed(pixels_13hw)

        def decode(chunk_B12: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            labels_B1 = torch.ones(chunk_B12.shape[:2], dtype=torch.int, device=device)
            # Outside autocast: 8 significant bits of bfloat16 cannot hold a pixel coordinate.
            sparse, dense = sam.prompt_encoder((chunk_B12, labels_B1), None, None)
            with self._compute.autocast():
                masks_Nhw, iou_N = self._decode_prompts(embedding, sparse, dense, min_iou)
            return masks_Nhw.float(), iou_N.float()

        # The next image starts with the batch size that fitted.
        parts, self._batch = in_batches(coords_P12, self._batch, decode)
        logits, ious = zip(*parts, strict=True)
        height, width = resized.shape[:2]
        logits_Nhw = torch.cat(logits)
        # Cut off the padding to a square, which the model adds to the right and below.
        per_logit = sam.image_encoder.img_size / logits_Nhw.shape[-1]
        rows, columns = round(height / per_logit), round(width / per_logit)
        return _Candidates(logits_Nhw[:, :rows, :columns], torch.cat(ious), (height, width))

    def _embed(self, pixels_13hw: torch.Tensor) -> torch.Tensor:
        """The image embedding of RGB 0-255."""
        with self._compute.autocast():
            inputs = self._sam.preprocess(pixels_13hw)
            return self._sam.image_encoder(inputs.contiguous(memory_format=torch.channels_last))

    def _decode_prompts(
        self, embedding: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor, min_iou: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask logits and predicted IoUs of some prompts, if at least `min_iou`."""
        decoder, position = self._sam.mask_decoder, self._sam.prompt_encoder.get_dense_pe()
        if isinstance(decoder, DetailDecoder):
            return decode_confident(decoder, embedding, position, sparse, dense[:1], min_iou)
        masks, iou = decoder(
            image_embeddings=embedding,
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        good_N = iou.flatten() >= min_iou
        return masks.flatten(0, 1)[good_N], iou.flatten()[good_N]

    def _filter(
        self, candidates: _Candidates, foreground: ForegroundMask, settings: ProposalSettings
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Filtered and de-duplicated masks at image size with their predicted IoUs, or None."""
        logits_Nhw, iou_N = candidates.logits_Nhw, candidates.iou_N
        inside_hw = _shrink(foreground.mask_HW, logits_Nhw.shape[1:]).to(logits_Nhw.device)
        good_N = _passes(logits_Nhw, iou_N, inside_hw, settings)
        # Best first, so that of two duplicates the better one is kept. A stable sort, because ties
        # would otherwise depend on the device.
        order_N = torch.argsort(iou_N, descending=True, stable=True)
        order_N = order_N[good_N[order_N]]
        kept_N = _without_duplicates(logits_Nhw[order_N] > 0, settings.max_iou)
        masks: list[np.ndarray] = []
        scores: list[float] = []
        height, width = foreground.mask_HW.shape
        for index in order_N[kept_N].tolist():
            if len(masks) == settings.max_proposals:
                break
            # Resize the logits and threshold then: smoother outlines than those of a resized mask.
            logits_hw = logits_Nhw[index].cpu().numpy()
            big_HW = cv2.resize(logits_hw, (width, height), interpolation=cv2.INTER_LINEAR) > 0
            mask_HW, share = largest_component(big_HW)
            if share >= (settings.min_component or 0.0):
                masks.append(mask_HW)
                scores.append(float(iou_N[index]))
        if not masks:
            return None
        return np.stack(masks), np.clip(np.array(scores, np.float32), 0, 1)


def relaxed_settings(settings: ProposalSettings, change: dict[str, float]) -> ProposalSettings:
    """The settings with each limit moved to the one in `change`, unless it is wider already."""
    # A lower limit is wider when it is smaller, an upper limit when it is larger.
    wider = {
        name: (min if name.startswith("min_") else max)(getattr(settings, name) or 0.0, limit)
        for name, limit in change.items()
    }
    return settings.model_copy(update=wider)


def foreground_points(mask_HW: np.ndarray, wanted: int) -> np.ndarray:
    """About `wanted` (x, y) points of a square lattice inside the mask, (P, 2) int32.

    A small or thin component without a lattice point gets the pixel farthest from its border.
    """
    area = int(mask_HW.sum())
    # Lattice spacing at which the mask's area holds the wanted number of points.
    step = max(1.0, (area / max(wanted, 1)) ** 0.5)
    height, width = mask_HW.shape
    xs = np.arange(step / 2, width, step).astype(int)
    ys = np.arange(step / 2, height, step).astype(int)
    grid = np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2)
    points = [grid[mask_HW[grid[:, 1], grid[:, 0]]]]
    # Add a point to each component that the lattice missed, while there are not too many.
    _, labels_HW = cv2.connectedComponents(mask_HW.astype(np.uint8), connectivity=8)
    hit = set(labels_HW[points[0][:, 1], points[0][:, 0]].tolist())
    depth_HW = cv2.distanceTransform(mask_HW.astype(np.uint8), cv2.DIST_L2, 3)
    for label in range(1, int(labels_HW.max()) + 1):
        if label not in hit and len(points) <= wanted:
            inside = np.where(labels_HW == label, depth_HW, 0)
            y, x = divmod(int(inside.argmax()), width)
            points.append(np.array([[x, y]]))
    return np.concatenate(points).astype(np.int32)


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


def _passes(
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
    area_N, overlap_N, border_N = ((flat_NK > 0).float() @ each_K3).unbind(1)
    surely_N = (flat_NK > STABILITY_OFFSET).float() @ whole_K
    maybe_N = (flat_NK > -STABILITY_OFFSET).float() @ whole_K
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


def _without_duplicates(masks_Nhw: torch.Tensor, max_iou: float) -> torch.Tensor:
    """Non-maximum suppression of masks in their order: indices whose IoU with kept ones is low."""
    # Pack pixels into 64-bit words and count bits; the areas are exact integers.
    bits_NK = np.packbits(masks_Nhw.flatten(1).cpu().numpy(), axis=1)
    bits_NK = np.pad(bits_NK, ((0, 0), (0, -bits_NK.shape[1] % 8))).view(np.uint64)
    area_N = np.bitwise_count(bits_NK).sum(1, np.int64)
    kept: list[int] = []
    for index, bits_K in enumerate(bits_NK):
        shared_k = np.bitwise_count(bits_NK[kept] & bits_K).sum(1, np.int64)
        union_k = np.maximum(area_N[kept] + area_N[index] - shared_k, 1)
        if not (shared_k > max_iou * union_k).any():
            kept.append(index)
    return torch.tensor(kept, dtype=torch.long, device=masks_Nhw.device)


def _shrink(mask_HW: np.ndarray, size: torch.Size) -> torch.Tensor:
    """The mask at logit resolution; a cell is inside when the mask covers more than half of it."""
    small = cv2.resize(mask_HW.astype(np.uint8), (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return torch.from_numpy(small.astype(np.bool_))
