"""Object proposals: Segment Anything, prompted inside the foreground (Kirillov et al., ICCV 2023).

The image is embedded once and prompted with a lattice of points inside the foreground, as the
published method does, and with the boxes of what may be parts (`prompts.py`). Masks are filtered
and de-duplicated at logit resolution (`mask_filter.py`); only those that are kept are resized to
the image and told apart into whole parts, pieces and the product (`hierarchy.py`). It is many times
cheaper than segment-anything's default 32x32 grid.

Shapes: P prompts; N masks (up to 3 per prompt); H, W image; h, w logits (a quarter of the model's
input side for an official SAM, half of it for the small one); K = h x w.
"""

from pipeline.models import lean_segment_anything as _lean  # noqa: F401  isort: skip  first

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from pipeline.models.device import Compute
from pipeline.models.hierarchy import in_order
from pipeline.models.limbs import with_limbs
from pipeline.models.mask_filter import (
    RELAXATIONS,
    MaskBits,
    confirmed,
    largest_component,
    passes,
    relaxed_settings,
    shrink,
    shrunk_labels,
    without_duplicates,
)
from pipeline.models.out_of_memory import in_batches
from pipeline.models.pattern_foreground import without_pattern
from pipeline.models.prompts import (
    contrast_hw,
    foreground_points,
    part_boxes,
    standing_out,
)
from pipeline.models.settings import ProposalSettings, softer
from pipeline.models.small_sam.decoder import DetailDecoder, decode_confident
from pipeline.records import ForegroundMask, ObjectProposals

# IoU of masks in boxes from which they are the same. Above `max_iou` two masks are of the same
# object, but one of them may have its shadow on it: whichever SAM finds surer by the last bits
# would decide whether the object is recognised.
SAME = 0.97


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """All decoded masks of one image at logit resolution, padding cut off."""

    logits_Nhw: torch.Tensor
    # Float32, in memory of the CPU as the bits.
    iou_N: np.ndarray
    masks: MaskBits
    # Of each group of boxes: how many masks the points and the groups up to it have given.
    ends: tuple[int, ...]

    def first(self, count: int) -> "_Candidates":
        return _Candidates(self.logits_Nhw[:count], self.iou_N[:count], self.masks.first(count), ())

    def mask(self, index: int, size_HW: tuple[int, int]) -> np.ndarray:
        """One of the masks at image size, (H, W) bool."""
        # Resize the logits and threshold then: smoother outlines than those of a resized mask.
        logits_hw = self.logits_Nhw[index].cpu().numpy()
        return cv2.resize(logits_hw, size_HW[::-1], interpolation=cv2.INTER_LINEAR) > 0


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

    def __call__(self, image_HW3: np.ndarray, foreground: ForegroundMask) -> ObjectProposals:
        """Objects inside the foreground, highest predicted IoU first; possibly none.

        `image_HW3` is RGB uint8. The result names the relaxations that were needed.
        """
        return self._by_limits(image_HW3, foreground, (self._settings,))[0]

    def with_parts(
        self, image_HW3: np.ndarray, foreground: ForegroundMask
    ) -> tuple[ObjectProposals, ObjectProposals]:
        """The objects for edits, and those that rule books choose parts from (`softer` limits)."""
        limits = self._settings, softer(self._settings)
        objects, parts = self._by_limits(image_HW3, foreground, limits)
        return objects, parts

    def parts(self, image_HW3: np.ndarray, foreground: ForegroundMask) -> ObjectProposals:
        """The second of `with_parts` alone."""
        limits = self._settings, softer(self._settings)
        return self._by_limits(image_HW3, foreground, limits, first=1)[0]

    @torch.inference_mode()
    def _by_limits(
        self,
        image_HW3: np.ndarray,
        foreground: ForegroundMask,
        limits: Sequence[ProposalSettings],
        first: int = 0,
    ) -> list[ObjectProposals]:
        """The objects of one pass of the model under each of several limits, from the first one on.

        What one of them finds does not depend on those that follow; it also has the masks of the
        prompts of those before it.
        """
        contrast = contrast_hw(image_HW3)
        # U²-Net sees the striking parts only, so a mask may also lie on what stands out otherwise.
        search_HW = foreground.mask_HW | standing_out(contrast, foreground.mask_HW.shape)
        points_P2 = foreground_points(search_HW, self._settings.points)
        boxes = [
            part_boxes(foreground.mask_HW, contrast, one.min_area, one.max_area) for one in limits
        ]
        # Every box once, in the group of the first limits that ask for it.
        for later in range(1, len(boxes)):
            asked = {tuple(box) for group in boxes[:later] for box in group.tolist()}
            new = [tuple(box) not in asked for box in boxes[later].tolist()]
            boxes[later] = boxes[later][new]
        candidates = self._decode(image_HW3, points_P2, *boxes)
        return [
            self._read(candidates.first(end), image_HW3, search_HW, foreground, one)
            for one, end in list(zip(limits, candidates.ends, strict=True))[first:]
        ]

    def _read(
        self,
        candidates: _Candidates,
        image_HW3: np.ndarray,
        search_HW: np.ndarray,
        foreground: ForegroundMask,
        limits: ProposalSettings,
    ) -> ObjectProposals:
        """The objects among decoded masks; limits are relaxed where none passes."""
        # Decoding is the expensive part. It happens once, and each relaxation only filters again.
        relaxed: tuple[str, ...] = ()
        settings = limits
        # A foreground that is the whole image confirms nothing.
        parts_HW = None if foreground.fallback else foreground.mask_HW
        kept = self._filter(candidates, search_HW, settings, parts_HW)
        for name, change in RELAXATIONS:
            if kept is not None:
                break
            relaxed += (name,)
            settings = relaxed_settings(settings, change)
            kept = self._filter(candidates, search_HW, settings, parts_HW)
        if kept is None:
            empty_NHW = np.zeros((0, *image_HW3.shape[:2]), np.bool_)
            kept = empty_NHW, np.zeros(0, np.float32)
        if foreground.pattern_HW is not None:
            kept = without_pattern(*kept, foreground)
            kept = with_limbs(*kept, foreground.mask_HW)
        return in_order(*kept, foreground, relaxed, limits, image_HW3)

    @torch.inference_mode()
    def asked(
        self, image_HW3: np.ndarray, foreground_HW: np.ndarray, boxes_P4: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What passes the softer limits in boxes (x0, y0, x1, y1 in pixels): masks (M, H, W) bool
        and their predicted IoUs (M,) float32, the surest first."""
        search_HW = foreground_HW | standing_out(contrast_hw(image_HW3), foreground_HW.shape)
        kept = None
        if len(boxes_P4):
            candidates = self._decode_boxes(image_HW3, boxes_P4)
            kept = self._filter(candidates, search_HW, softer(self._settings))
        return kept or (np.zeros((0, *foreground_HW.shape), np.bool_), np.zeros(0, np.float32))

    @torch.inference_mode()
    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray:
        """What fills boxes (x0, y0, x1, y1 in pixels): masks (M, H, W) bool, the surest first.

        The caller knows what it is looking for: a mask goes only where another is the same.
        """
        height, width = image_HW3.shape[:2]
        candidates = self._decode_boxes(image_HW3, boxes_P4)
        order_N = np.argsort(-candidates.iou_N, kind="stable")
        order_N = order_N[without_duplicates(candidates.masks.bits_NK[order_N], SAME)]
        masks = [
            largest_component(candidates.mask(index, (height, width)))[0]
            for index in order_N.tolist()
        ]
        return np.array(masks, np.bool_).reshape(-1, height, width)

    def _decode_boxes(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> _Candidates:
        height, width = image_HW3.shape[:2]
        boxes_P4 = np.clip(boxes_P4, 0, [width - 1, height - 1, width - 1, height - 1])
        return self._decode(image_HW3, np.zeros((0, 2)), boxes_P4.astype(np.float32))

    def _resized(self, image_HW3: np.ndarray) -> np.ndarray:
        """The image with the longest side of the model's input, as SamPredictor resizes it."""
        # The same call of Pillow as in `ResizeLongestSide.apply_image`, without torchvision.
        size_hw = self._resize.get_preprocess_shape(
            *image_HW3.shape[:2], self._resize.target_length
        )
        small = Image.fromarray(image_HW3).resize(size_hw[::-1], Image.Resampling.BILINEAR)
        return np.array(small)

    def _decode(
        self, image_HW3: np.ndarray, points_P2: np.ndarray, *boxes: np.ndarray
    ) -> _Candidates:
        """Embed the image once and decode all prompts in batches that fit into memory.

        `boxes` are groups of them, (P, 4) each. No batch holds prompts of two of them, so that
        masks have the same bits whatever follows.
        """
        sam, device = self._sam, self._compute.device
        resized = self._resized(image_HW3)
        pixels_13hw = torch.from_numpy(resized).to(device).permute(2, 0, 1)[None].float()
        # Masks that even the relaxed limit rejects are not decoded at all.
        min_iou = relaxed_settings(self._settings, RELAXATIONS[1][1]).min_predicted_iou or 0.0
        embedding = self._embed(pixels_13hw)
        # Outside autocast: 8 significant bits of bfloat16 cannot hold a pixel coordinate.
        coords = self._resize.apply_coords(points_P2.astype(np.float64), image_HW3.shape[:2])
        coords_P12 = torch.as_tensor(coords, dtype=torch.float32, device=device)[:, None]
        labels_P1 = torch.ones(coords_P12.shape[:2], dtype=torch.int, device=device)
        groups = [sam.prompt_encoder((coords_P12, labels_P1), None, None)[0]]
        for boxes_P4 in boxes:
            corners = self._resize.apply_boxes(boxes_P4.astype(np.float64), image_HW3.shape[:2])
            corners_P4 = torch.as_tensor(corners, dtype=torch.float32, device=device)
            groups.append(sam.prompt_encoder(None, corners_P4, None)[0])
        # Points and the first boxes are asked in any case, and both become two tokens. In one row
        # they need fewer calls of the decoder, each of which costs as much as eight prompts.
        groups[:2] = [torch.cat(groups[:2])]
        # Without prompts: what stands for the mask prompt that none of them has.
        _, dense_1Chw = sam.prompt_encoder(None, None, None)

        def decode(sparse_PTC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            dense_PChw = dense_1Chw.expand(len(sparse_PTC), -1, -1, -1)
            with self._compute.autocast():
                masks_Nhw, iou_N = self._decode_prompts(embedding, sparse_PTC, dense_PChw, min_iou)
            return masks_Nhw.float(), iou_N.float()

        decoded: list[tuple[torch.Tensor, torch.Tensor]] = []
        ends: list[int] = []
        for group in groups:
            # The next image starts with the batch size that fitted.
            of_group, self._batch = in_batches(group, self._batch, decode)
            decoded += of_group
            ends.append(sum(len(iou_N) for _, iou_N in decoded))
        logits, ious = zip(*decoded, strict=True)
        height, width = resized.shape[:2]
        logits_Nhw = torch.cat(logits)
        # Cut off the padding to a square, which the model adds to the right and below.
        per_logit = sam.image_encoder.img_size / logits_Nhw.shape[-1]
        rows, columns = round(height / per_logit), round(width / per_logit)
        logits_Nhw = logits_Nhw[:, :rows, :columns]
        iou_N = torch.cat(ious).cpu().numpy()
        return _Candidates(logits_Nhw, iou_N, MaskBits.of(logits_Nhw), tuple(ends))

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
        self,
        candidates: _Candidates,
        search_HW: np.ndarray,
        settings: ProposalSettings,
        parts_HW: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Filtered and de-duplicated masks at image size with their predicted IoUs, or None.

        A mask of which SAM is not sure counts where it shows one component of the foreground
        `parts_HW`, and that is its outline.
        """
        iou_N, bits_NK = candidates.iou_N, candidates.masks.bits_NK
        size_hw = candidates.logits_Nhw.shape[1], candidates.logits_Nhw.shape[2]
        inside_hw = shrink(search_HW, size_hw)
        good_N = passes(candidates.masks, iou_N, inside_hw, settings)
        component_N = np.zeros(len(iou_N), np.int64)
        if parts_HW is not None:
            _, labels_HW = cv2.connectedComponents(parts_HW.astype(np.uint8))
            unsure = settings.model_copy(update={"min_predicted_iou": 0.0, "min_stability": 0.0})
            more_N = passes(candidates.masks, iou_N, inside_hw, unsure) & ~good_N
            component_N[more_N] = confirmed(bits_NK[more_N], shrunk_labels(labels_HW, size_hw))
            good_N |= component_N > 0
        # Best first, so that of two duplicates the better one is kept. A stable sort, because ties
        # would otherwise depend on the machine.
        order_N = np.argsort(-iou_N, kind="stable")
        order_N = order_N[good_N[order_N]]
        order_N = order_N[without_duplicates(bits_NK[order_N], settings.max_iou)]
        masks: list[np.ndarray] = []
        scores: list[float] = []
        height, width = search_HW.shape
        for index in order_N.tolist():
            if len(masks) == settings.max_proposals:
                break
            if component_N[index]:
                mask_HW, share = labels_HW == component_N[index], 1.0
            else:
                mask_HW, share = largest_component(candidates.mask(index, (height, width)))
            if share >= (settings.min_component or 0.0):
                masks.append(mask_HW)
                scores.append(float(iou_N[index]))
        if not masks:
            return None
        return np.stack(masks), np.clip(np.array(scores, np.float32), 0, 1)
