"""Whole outlines for parts whose masks end too early, as far as their kind tells what is whole.

Only round kinds do: see `round_parts`. A corrected part is a further proposal, and the old mask
becomes a piece of it, so that indices stay and whoever studies the category again finds it as it
was.

Shapes: N proposals; M corrected parts; H, W image; 3 colour (RGB, uint8); C vector.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pipeline.imaging.part_shape import circle_share
from pipeline.part_kinds.kinds import FULL_CIRCLE, UNSURE, PartKinds
from pipeline.part_kinds.round_parts import round_part
from pipeline.records import WHOLE_PART, ObjectProposals

# IoU of a corrected outline with the mask, and the largest share of it on other whole parts.
SAME_PART, SHARED = 0.5, 0.05

# (image_HW3, masks_MHW) -> vectors (M, C): see `part_embedding.Embedder`.
Embed = Callable[[np.ndarray, np.ndarray], np.ndarray]


def doubtful(kinds: PartKinds, proposals: ObjectProposals) -> list[int]:
    """The whole parts of round kinds whose masks are no whole circles, or smaller ones."""
    if proposals.vectors_NC is None:
        return []
    kinds_N = kinds.recognise(proposals.vectors_NC)
    return [
        index
        for index in np.flatnonzero(proposals.whole_N & (kinds_N != UNSURE)).tolist()
        if is_doubtful(kinds, int(kinds_N[index]), proposals.masks_NHW[index])
    ]


def is_doubtful(kinds: PartKinds, kind: int, mask_HW: np.ndarray) -> bool:
    """True for the mask of a round kind that is no whole circle, or a smaller one than others of
    its kind; False for UNSURE."""
    radii = kinds.radii(kind, (mask_HW.shape[0], mask_HW.shape[1]))
    if radii is None:
        return False
    area = np.count_nonzero(mask_HW)
    return bool(area < np.pi * radii[0] ** 2 or circle_share(mask_HW) < FULL_CIRCLE)


def is_cut(kinds: PartKinds, kind: int, image_HW3: np.ndarray, mask_HW: np.ndarray) -> bool:
    """True where a part of a round kind seems to go on where its mask ends."""
    radii = kinds.radii(kind, (mask_HW.shape[0], mask_HW.shape[1]))
    if radii is None or not is_doubtful(kinds, kind, mask_HW):
        return False
    found = round_part(image_HW3, mask_HW, radii)
    return found is not None and found.is_cut


def with_whole_outlines(
    kinds: PartKinds, image_HW3: np.ndarray, proposals: ObjectProposals, embed: Embed
) -> ObjectProposals:
    """The proposals, followed by corrected outlines; `again` of the result counts these."""
    asked = doubtful(kinds, proposals)
    if not asked:
        return proposals
    assert proposals.vectors_NC is not None
    kinds_N = kinds.recognise(proposals.vectors_NC)
    found = {
        index: mask_HW
        for index in asked
        if (mask_HW := _whole(kinds, int(kinds_N[index]), image_HW3, proposals, index)) is not None
    }
    if not found:
        return proposals
    # A circle around something else is no part of the kind.
    masks_MHW = np.stack(list(found.values()))
    vectors_MC = embed(image_HW3, masks_MHW)
    same_M = kinds.recognise(vectors_MC) == kinds_N[list(found)]
    old_M = np.array(list(found))[same_M]
    count = len(old_M)
    parent_N = np.append(proposals.parent_N, np.full(count, WHOLE_PART)).astype(np.int32)
    parent_N[old_M] = len(proposals) + np.arange(count)
    return replace(
        proposals,
        masks_NHW=np.concatenate([proposals.masks_NHW, masks_MHW[same_M]]),
        scores_N=np.append(proposals.scores_N, proposals.scores_N[old_M]),
        vectors_NC=np.concatenate([proposals.vectors_NC, vectors_MC[same_M]]),
        parent_N=parent_N,
        again=proposals.again + count,
    )


def _whole(
    kinds: PartKinds, kind: int, image_HW3: np.ndarray, proposals: ObjectProposals, index: int
) -> np.ndarray | None:
    """The whole outline of a part, (H, W) bool; None where the image does not show another one."""
    mask_HW = proposals.masks_NHW[index]
    radii = kinds.radii(kind, (mask_HW.shape[0], mask_HW.shape[1]))
    found = None if radii is None else round_part(image_HW3, mask_HW, radii)
    if found is None or not found.is_better:
        return None
    circle_HW = found.circle_HW
    area, shared = (np.count_nonzero(one) for one in (circle_HW, circle_HW & mask_HW))
    if shared < SAME_PART * (area + np.count_nonzero(mask_HW) - shared):
        return None
    others_HW = np.zeros_like(mask_HW)
    for other in np.flatnonzero(proposals.whole_N).tolist():
        if other != index:
            others_HW |= proposals.masks_NHW[other]
    return None if np.count_nonzero(circle_HW & others_HW) > SHARED * area else circle_HW
