"""Segment an image into parts: disjoint proposals of one level, with their descriptors.

Proposals overlap and nest: a pair of fruits, one fruit, the highlight on it. `chosen` keeps the
proposals with the highest scores and drops what overlaps them. Smaller and softer ones count than
for edits (`models.settings.softer`).

Positions are given in the product's own frame (`ProductFrame`), so that a slightly rotated or
shifted product has its parts at the same positions.

Shapes: N parts; H, W image; C descriptor (`pipeline/rulebook/descriptors.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.records import ForegroundMask, ObjectProposals
from pipeline.rulebook.descriptors import PartDescriptor

# Largest share of the smaller of two parts that may overlap the other.
MAX_SHARED = 0.25
# Predicted IoU that is evidence neither for nor against a mask.
NEUTRAL_SCORE = 0.6
# A fragment lies inside its whole by at least this share; the whole is at most this factor larger,
# and its score at most this much lower.
INSIDE, WHOLE, LESS_SURE = 0.8, 2.5, 0.08
# Share of a mask that several parts must fill for it to count as a pile of them.
FILLED = 0.7


@dataclass(frozen=True, slots=True)
class ProductFrame:
    """Pose of the product in the image: centre (pixels), size (pixels), rotation (radians).

    Positions inside it are in units of its size, with (0, 0) at the centre, x right and y down.
    """

    x: float
    y: float
    angle: float
    size: float

    def inward(self, points_N2: np.ndarray) -> np.ndarray:
        """Pixel positions (x, y) as product positions, (N, 2) float64."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        moved = np.asarray(points_N2, np.float64).reshape(-1, 2) - (self.x, self.y)
        return moved @ np.array([[c, -s], [s, c]]) / self.size

    def outward(self, points_N2: np.ndarray) -> np.ndarray:
        """The inverse of `inward`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        scaled = np.asarray(points_N2, np.float64).reshape(-1, 2) * self.size
        return scaled @ np.array([[c, s], [-s, c]]) + (self.x, self.y)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """The parts of one image, highest score first: masks (bool) and descriptors."""

    masks_NHW: np.ndarray
    descriptors: tuple[PartDescriptor, ...]
    frame: ProductFrame

    def __len__(self) -> int:
        return len(self.descriptors)

    @property
    def centres_N2(self) -> np.ndarray:
        """Centres of gravity in the product frame, (N, 2) float64."""
        return self.frame.inward(
            np.array([descriptor.centre for descriptor in self.descriptors]).reshape(-1, 2)
        )


Describe = Callable[[np.ndarray, np.ndarray, ProductFrame], tuple[PartDescriptor, ...]]


class PartFinder:
    """Finds the parts of an image (uint8): foreground, proposals, one level, descriptors.

    `foreground` and `proposals` are the models of a run (`Models`), `describe` is a `Describer`.
    """

    def __init__(self, foreground: Any, proposals: Any, describe: Describe) -> None:
        self._foreground = foreground
        self._proposals = proposals
        self.describe = describe

    def __call__(self, image_HW3: np.ndarray) -> Parts:
        foreground = self._foreground(image_HW3)
        soft = self._proposals.parts(image_HW3, foreground)
        return parts_among(image_HW3, foreground, soft, self.describe)

    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray:
        """Masks (M, H, W) bool that the proposal model finds in boxes (pixels), unfiltered."""
        return self._proposals.within(image_HW3, boxes_P4)


def finder(models: Any) -> PartFinder:
    """The part finder of a run's models; descriptors use the bundled teacher."""
    from pipeline.rulebook.descriptors import Describer

    return PartFinder(models.foreground, models.proposals, Describer.bundled())


def parts_among(
    image_HW3: np.ndarray, foreground: ForegroundMask, soft: ObjectProposals, describe: Describe
) -> Parts:
    """The parts of an image (uint8) that has been analysed; `soft` as in `records.Analysis`."""
    frame, masks_NHW = frame_of(foreground), chosen(soft)
    return Parts(masks_NHW, describe(image_HW3, masks_NHW, frame), frame)


def chosen(proposals: ObjectProposals) -> np.ndarray:
    """One level of nested proposals, (N, H, W) bool, highest score first; no two share a pixel.

    1. In order of score, keep every mask that hardly overlaps those kept so far.
    2. Replace a mask by two or more masks that fill it, if their scores are higher in sum: it was a
       pile of parts.
    3. Replace a mask by one around it whose score is hardly lower and that overlaps no other part:
       it was a fragment.
    """
    count, masks_NHW = len(proposals), proposals.masks_NHW
    areas_N = masks_NHW.sum((1, 2)).astype(np.float32)
    # Pairwise intersections as one matrix product; float32 is exact below 2**24 pixels.
    flat_NK = masks_NHW.reshape(count, proposals.foreground_HW.size).astype(np.float32)
    shared_NN = flat_NK @ flat_NK.T
    clash_NN = shared_NN > MAX_SHARED * np.minimum(areas_N[:, None], areas_N[None])
    # The product itself is no part of it.
    usable_N = (areas_N > 0) & ~proposals.product_N
    order = [int(i) for i in np.argsort(-proposals.scores_N, kind="stable") if usable_N[i]]
    kept = _apart(order, clash_NN, [])
    # Scores as evidence: only what exceeds the neutral score adds up.
    sure_N = np.maximum(proposals.scores_N - NEUTRAL_SCORE, 0)
    for index in list(kept):
        others = [k for k in kept if k != index]
        inside = [i for i in order if i != index and clash_NN[i, index]]
        contained = [i for i in _apart(inside, clash_NN, others) if i not in others]
        fill = shared_NN[index, contained].sum() >= FILLED * areas_N[index]
        if len(contained) > 1 and fill and sure_N[contained].sum() > sure_N[index]:
            kept = others + contained
    for index in list(kept):
        others = [k for k in kept if k != index]
        wholes = [
            i
            for i in order
            if shared_NN[i, index] >= INSIDE * areas_N[index]
            and areas_N[index] < areas_N[i] <= WHOLE * areas_N[index]
            and proposals.scores_N[i] >= proposals.scores_N[index] - LESS_SURE
            and not clash_NN[i, others].any()
        ]
        if wholes:
            kept = [*others, wholes[0]]
    # Remaining overlaps go to the mask with the higher score.
    owned_HW = np.zeros(proposals.foreground_HW.shape, np.bool_)
    parts = []
    for index in sorted(kept, key=order.index):
        parts.append(masks_NHW[index] & ~owned_HW)
        owned_HW |= masks_NHW[index]
    return np.array(parts, np.bool_).reshape(-1, *owned_HW.shape)


def _apart(order: list[int], clash_NN: np.ndarray, kept: list[int]) -> list[int]:
    """`kept`, plus in order every mask that clashes with none kept so far."""
    kept = list(kept)
    for index in order:
        if not clash_NN[index, kept].any():
            kept.append(index)
    return kept


def frame_of(foreground: ForegroundMask) -> ProductFrame:
    """The smallest rectangle around the foreground, rotated by at most 45 degrees.

    Its size is the square root of its area. The whole image where no foreground was found.
    """
    height, width = foreground.mask_HW.shape
    whole = ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))
    if foreground.fallback or not foreground.mask_HW.any():
        return whole
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(
        foreground.mask_HW.astype(np.uint8)
    )
    # Small specks of saliency beside the product would stretch the rectangle: keep components of at
    # least a tenth of the largest one.
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] > stats[1:, 4].max() / 10]
    points = np.argwhere(np.isin(labels_HW, large))[:, ::-1].astype(np.float32)
    (x, y), (long, short), degrees = cv2.minAreaRect(cv2.convexHull(points))
    # OpenCV's angle is ambiguous by quarter turns.
    turned = (degrees + 45) % 90 - 45
    return ProductFrame(x, y, float(np.deg2rad(turned)), float(np.sqrt(max(long * short, 1.0))))
