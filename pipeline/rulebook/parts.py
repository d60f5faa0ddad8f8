"""The parts of one picture: proposals brought to one level, none over another, with their looks.

Proposals overlap and nest: a pair of fruits, one fruit, the shine on it. `chosen` keeps what the
proposal model is surest of and drops whatever shares ground with it. Small parts that the lattice
of the pipeline steps over are found by asking more densely (`PARTS_POINTS`).

Where a part lies is said in the product's own frame (`ProductFrame`), so that a product that lies
a little turned or shifted has its parts at the same places.

Shapes: N parts; H, W image; C descriptor (`pipeline/rulebook/descriptors.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipeline.records import ForegroundMask, ObjectProposals
from pipeline.rulebook.descriptors import PartDescriptor

PARTS_POINTS = 256
"""Foreground points that are asked about when parts are counted: four times the edits' lattice."""
PARTS_LIMITS: dict[str, Any] = {
    "points": PARTS_POINTS,
    "min_area": 0.001,
    "max_area": 0.30,
    "max_foreground_share": 0.80,
    "max_proposals": 96,
}
SOFTER = 0.8
"""Share of the usual least stability that is asked of parts: under a gleam or a film outlines are
soft, and masks that the model is sure of would be thrown away (a tenth of the bolts in a bag)."""
MAX_SHARED = 0.25
"""Share of the smaller of two parts that both may claim."""
UNSURE = 0.6
"""Predicted IoU that speaks neither for nor against a mask."""
INSIDE, WHOLE, LESS_SURE = 0.8, 2.5, 0.08
"""A piece lies inside its whole to this share, which is at most so much larger and less sure."""
FILLED = 0.7
"""Share of a mask that its pieces must fill for it to be a pile of them."""


@dataclass(frozen=True, slots=True)
class ProductFrame:
    """Where the product lies in the picture: its centre and size in pixels, its turn in radians.

    Positions inside it are in units of its size, (0, 0) in the middle, x right and y down.
    """

    x: float
    y: float
    angle: float
    size: float

    def inward(self, points_N2: np.ndarray) -> np.ndarray:
        """Pixel positions (x, y) as product positions, float64."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        moved = np.asarray(points_N2, np.float64).reshape(-1, 2) - (self.x, self.y)
        return moved @ np.array([[c, -s], [s, c]]) / self.size

    def outward(self, points_N2: np.ndarray) -> np.ndarray:
        """The inverse of `inward`."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        points = np.asarray(points_N2, np.float64).reshape(-1, 2) * self.size
        return points @ np.array([[c, s], [-s, c]]) + (self.x, self.y)


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """What was found in one picture, surest first: masks (bool) and what each looks like."""

    masks_NHW: np.ndarray
    looks: tuple[PartDescriptor, ...]
    frame: ProductFrame

    def __len__(self) -> int:
        return len(self.looks)

    @property
    def centres_N2(self) -> np.ndarray:
        """Centres of gravity in the product's frame."""
        return self.frame.inward(np.array([look.centre for look in self.looks]).reshape(-1, 2))


FindParts = Callable[[np.ndarray], Parts]
Describe = Callable[[np.ndarray, np.ndarray, ProductFrame], tuple[PartDescriptor, ...]]


class PartFinder:
    """Foreground, dense proposals, one level, looks; call it with an image.

    `foreground` and `proposals` are the models of a run (`Models`), `describe` is a `Describer`.
    """

    def __init__(self, foreground: Any, proposals: Any, describe: Describe) -> None:
        self._foreground = foreground
        softer = SOFTER * (proposals.settings.min_stability or 0.0)
        self._proposals = proposals.with_settings(**PARTS_LIMITS, min_stability=softer)
        self.describe = describe

    def __call__(self, image_HW3: np.ndarray) -> Parts:
        foreground = self._foreground(image_HW3)
        return self.inside(image_HW3, foreground)

    def inside(
        self, image_HW3: np.ndarray, foreground: ForegroundMask, frame: ProductFrame | None = None
    ) -> Parts:
        """The parts of a picture whose foreground (and frame) are known already."""
        frame = frame or frame_of(foreground)
        masks_NHW = chosen(self._proposals(image_HW3, foreground))
        return Parts(masks_NHW, self.describe(image_HW3, masks_NHW, frame), frame)


def finder(models: Any) -> PartFinder:
    """The part finder of a run's models; looks come from the bundled teacher."""
    from pipeline.rulebook.descriptors import Describer

    return PartFinder(models.foreground, models.proposals, Describer.bundled())


def chosen(proposals: ObjectProposals) -> np.ndarray:
    """One level of nested proposals, (N, H, W) bool, surest first; no two share a pixel.

    From the surest on, whatever shares hardly any ground with those kept. Then a mask that two or
    more others fill, which are surer in sum, gives way to them: it was a pile of parts. And a mask
    gives way to one around it that is hardly less sure and touches no other part: it was a piece.
    """
    count, masks_NHW = len(proposals), proposals.masks_NHW
    areas_N = masks_NHW.sum((1, 2)).astype(np.float32)
    flat_NK = masks_NHW.reshape(count, proposals.foreground_HW.size).astype(np.float32)
    shared_NN = flat_NK @ flat_NK.T
    clash_NN = shared_NN > MAX_SHARED * np.minimum(areas_N[:, None], areas_N[None])
    order = [int(i) for i in np.argsort(-proposals.scores_N, kind="stable") if areas_N[i]]
    kept = _apart(order, clash_NN, [])
    sure_N = np.maximum(proposals.scores_N - UNSURE, 0)
    for index in list(kept):
        others = [k for k in kept if k != index]
        inside = [i for i in order if i != index and clash_NN[i, index]]
        pieces = [i for i in _apart(inside, clash_NN, others) if i not in others]
        fill = shared_NN[index, pieces].sum() >= FILLED * areas_N[index]
        if len(pieces) > 1 and fill and sure_N[pieces].sum() > sure_N[index]:
            kept = others + pieces
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
    owned_HW = np.zeros(proposals.foreground_HW.shape, np.bool_)
    parts = []
    for index in sorted(kept, key=order.index):
        parts.append(masks_NHW[index] & ~owned_HW)
        owned_HW |= masks_NHW[index]
    return np.array(parts, np.bool_).reshape(-1, *owned_HW.shape)


def _apart(order: list[int], clash_NN: np.ndarray, kept: list[int]) -> list[int]:
    """`kept` and, in order, whatever clashes with nothing kept so far."""
    kept = list(kept)
    for index in order:
        if not clash_NN[index, kept].any():
            kept.append(index)
    return kept


def frame_of(foreground: ForegroundMask) -> ProductFrame:
    """The smallest rectangle around the foreground, turned by less than 45 degrees.

    The whole picture where no foreground was found. Its size is the root of its area.
    """
    height, width = foreground.mask_HW.shape
    whole = ProductFrame(width / 2, height / 2, 0.0, float(np.sqrt(height * width)))
    if foreground.fallback or not foreground.mask_HW.any():
        return whole
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(
        foreground.mask_HW.astype(np.uint8)
    )
    # Crumbs of saliency beside the product would stretch the rectangle.
    large = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] > stats[1:, 4].max() / 10]
    points = np.argwhere(np.isin(labels_HW, large))[:, ::-1].astype(np.float32)
    (x, y), (long, short), degrees = cv2.minAreaRect(cv2.convexHull(points))
    turned = (degrees + 45) % 90 - 45
    return ProductFrame(x, y, float(np.deg2rad(turned)), float(np.sqrt(max(long * short, 1.0))))
