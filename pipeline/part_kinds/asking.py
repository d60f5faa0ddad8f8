"""Ask again where a kind of part that recurs is missing from an image, or its outline is cut.

The proposals of an image are found without knowing its category, and now and then a part is
overlooked. Where nearly every good image shows a kind in the same number (`PartKinds.usual_K`) and
this one shows fewer, masks that only passed softer limits are considered first, and then the
proposal model is prompted with boxes of the kind's size where no known part lies. An answer is
taken only if it is recognised as that kind, at its size and where good images show it. Before that
the outlines of round kinds are completed, without a prompt (`whole_outlines`).

It depends on the image and on the kinds alone, so neither the order of images nor the number of
workers matters.

Shapes: N proposals; M masks; P boxes; H, W image; 3 colour (RGB, uint8); C vector; K kinds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice

import cv2
import numpy as np

from pipeline.imaging.masks import bounding_box
from pipeline.models.prompts import contrast_hw, standing_out
from pipeline.part_kinds.kinds import UNSURE, PartKinds
from pipeline.part_kinds.whole_outlines import Embed, doubtful, with_whole_outlines
from pipeline.records import WHOLE_PART, Analysis, ObjectProposals

# Side of a box relative to the square root of a part's area, for parts of no known length.
ROOMY = 1.25
# Share of a new mask that known parts may cover at most.
SHARED = 0.2
# Boxes per kind and image, at most: a decoder call of the small SAM takes as many.
MOST_BOXES = 64

# (image_HW3, foreground_HW, boxes_P4) -> masks (M, H, W), scores (M,): see `SamProposals.asked`.
Propose = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def ask_again(
    kinds: PartKinds, image_HW3: np.ndarray, analysis: Analysis, propose: Propose, embed: Embed
) -> ObjectProposals:
    """The proposals of an image, followed by whole outlines of parts that were cut, and by missing
    parts of recurring kinds that were found.

    The first ones are those of `analysis`, in their order; `again` of the result counts the others.
    """
    proposals = with_whole_outlines(kinds, image_HW3, analysis.proposals, embed)
    search = _Search(kinds, image_HW3, proposals, embed)
    if search.missing_K.any():
        # Parts whose outline is soft need no prompt.
        soft = analysis.soft
        search.consider(soft.masks_NHW[~soft.product_N], soft.scores_N[~soft.product_N])
    if search.missing_K.any():
        search.consider(*propose(image_HW3, proposals.foreground_HW, search.boxes()))
    return search.result()


def worth_asking(kinds: PartKinds, proposals: ObjectProposals) -> bool:
    """True where parts are missing, or an outline is in doubt."""
    return bool(missing_parts(kinds, proposals).any() or doubtful(kinds, proposals))


def missing_parts(kinds: PartKinds, proposals: ObjectProposals) -> np.ndarray:
    """How many parts of each kind are missing among the proposals of an image, (K,) int."""
    if proposals.vectors_NC is None:
        return np.zeros(len(kinds), np.int64)
    kinds_N = _kinds_of_parts(kinds, proposals)
    counts_K = np.bincount(kinds_N[kinds_N != UNSURE], minlength=len(kinds))
    missing_K: np.ndarray = np.maximum(kinds.usual_K - counts_K, 0)
    return missing_K


def _kinds_of_parts(kinds: PartKinds, proposals: ObjectProposals) -> np.ndarray:
    """The kind of each whole part and of the product, (N,) int32; UNSURE for pieces."""
    assert proposals.vectors_NC is not None
    whole_N = proposals.whole_N | proposals.product_N
    return np.where(whole_N, kinds.recognise(proposals.vectors_NC), UNSURE)


class _Search:
    """What is known of one image, and what was found so far."""

    def __init__(
        self, kinds: PartKinds, image_HW3: np.ndarray, proposals: ObjectProposals, embed: Embed
    ) -> None:
        self.kinds, self.image_HW3, self.proposals, self._embed = kinds, image_HW3, proposals, embed
        self.missing_K = missing_parts(kinds, proposals)
        self._unsure_N = proposals.whole_N & (_kinds_of_parts(kinds, proposals) == UNSURE)
        # Pixels of whole parts that are known.
        self._taken_HW = proposals.masks_NHW[proposals.whole_N & ~self._unsure_N].any(0)
        self._found: list[tuple[np.ndarray, float, np.ndarray]] = []

    def consider(self, masks_MHW: np.ndarray, scores_M: np.ndarray) -> None:
        """Take what is recognised as a missing part, the one most like its kind first."""
        free = free_of(masks_MHW, self._taken_HW)
        if not free:
            return
        masks_MHW, scores_M = masks_MHW[free], scores_M[free]
        vectors_MC = self._embed(self.image_HW3, masks_MHW)
        kinds_M, apart_M = self.kinds.recognised(vectors_MC)
        for number in np.argsort(apart_M, kind="stable").tolist():
            mask_HW, kind = masks_MHW[number], int(kinds_M[number])
            if kind == UNSURE or not self.missing_K[kind]:
                continue
            if self._is_at_home(kind, mask_HW) and free_of(mask_HW[None], self._taken_HW):
                self._found.append((mask_HW, float(scores_M[number]), vectors_MC[number]))
                self._taken_HW = self._taken_HW | mask_HW
                self.missing_K[kind] -= 1

    def _is_at_home(self, kind: int, mask_HW: np.ndarray) -> bool:
        """True for the size of the kind, at a place where good images show it."""
        height, width = mask_HW.shape
        x0, y0, x1, y1 = bounding_box(mask_HW)
        extent = max((x1 - x0) / width, (y1 - y0) / height)
        centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height)
        size = float(np.sqrt(mask_HW.mean()))
        return not self.kinds.unusual_size(kind, size) and self.kinds.seen_near(
            kind, centre, extent
        )

    def boxes(self) -> np.ndarray:
        """Boxes (P, 4) in pixels where a missing part may lie."""
        height, width = self._taken_HW.shape
        foreground_HW = self.proposals.foreground_HW
        search_HW = foreground_HW | standing_out(contrast_hw(self.image_HW3), (height, width))
        search_HW &= ~self._taken_HW
        # What is unsure may be the part with something else, or a part of it.
        boxes: list[tuple[float, ...]] = [
            bounding_box(mask_HW) for mask_HW in self.proposals.masks_NHW[self._unsure_N]
        ]
        # Inner points first, and the first pixel among equal ones.
        depth_HW = cv2.distanceTransform(search_HW.astype(np.uint8), cv2.DIST_L2, 3)
        for kind in np.flatnonzero(self.missing_K).tolist():
            side = self.kinds.usual_size(kind) * float(np.sqrt(height * width))
            at = np.mgrid[side / 4 : height : side / 2, side / 4 : width : side / 2]
            ys, xs = at.reshape(2, -1).astype(int)
            order = np.argsort(-depth_HW[ys, xs], kind="stable")
            reach = ROOMY * side / min(height, width)
            near = (
                number for number in order.tolist()
                if search_HW[ys[number], xs[number]]
                and self.kinds.seen_near(kind, (xs[number] / width, ys[number] / height), reach)
            )  # fmt: skip
            boxes += [square(xs[k], ys[k], side) for k in islice(near, MOST_BOXES)]
        return np.array(boxes, np.float32).reshape(-1, 4)

    def result(self) -> ObjectProposals:
        """The proposals with what was found behind them."""
        if not self._found:
            return self.proposals
        masks, scores, vectors = zip(*self._found, strict=True)
        known, count = self.proposals, len(self._found)
        assert known.vectors_NC is not None
        return replace(
            known,
            masks_NHW=np.concatenate([known.masks_NHW, masks]),
            scores_N=np.append(known.scores_N, scores).astype(np.float32),
            vectors_NC=np.stack([*known.vectors_NC, *vectors]),
            parent_N=np.append(known.parent_N, np.full(count, WHOLE_PART)).astype(np.int32),
            again=known.again + count,
        )


def free_of(masks_MHW: np.ndarray, taken_HW: np.ndarray) -> list[int]:
    """The masks that are not empty, and of which other parts cover hardly anything."""
    return [
        number
        for number, mask_HW in enumerate(masks_MHW)
        if mask_HW.any() and (mask_HW & taken_HW).sum() <= SHARED * mask_HW.sum()
    ]


def apart(masks_MHW: np.ndarray, order: Sequence[int]) -> list[int]:
    """In this order, the masks that hardly overlap an earlier one."""
    taken: list[int] = []
    for number in order:
        mask_HW = masks_MHW[number]
        if all((mask_HW & masks_MHW[k]).sum() <= SHARED * mask_HW.sum() for k in taken):
            taken.append(number)
    return taken


def square(x: float, y: float, size: float) -> tuple[float, ...]:
    """The box around a part of that size (square root of its area) at a place; pixels."""
    half = ROOMY * size / 2
    return (x - half, y - half, x + half, y + half)
