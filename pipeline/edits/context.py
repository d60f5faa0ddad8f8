"""The parts of one image as a planner sees them: outlines, ground, neighbours, looks.

An image is planned for many times, so everything that was once found out is kept.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar

import cv2
import numpy as np

from pipeline.edits.appearance import (
    OTHER_COLOUR,
    SIMILAR_AREA,
    Look,
    cell_of,
    look_of,
    same_but_turned,
    same_kind,
)
from pipeline.edits.donors import DonorRef, Donors
from pipeline.imaging.masks import Cut, apart
from pipeline.records import ObjectProposals

Answer = TypeVar("Answer")

RING = 5
"""Width in pixels of the ring that tells on which kind of ground an object lies."""


@dataclass(slots=True, eq=False)
class Stock:
    """All parts of one image; `image_HW3` may be None, then colours are unknown."""

    proposals: ObjectProposals
    image_HW3: np.ndarray | None
    cuts: list[Cut]
    areas_N: np.ndarray
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def size_HW(self) -> tuple[int, int]:
        height, width = self.proposals.foreground_HW.shape
        return height, width

    def __len__(self) -> int:
        return len(self.cuts)

    def once(self, make: Callable[[], Answer], *question: Any) -> Answer:
        """The answer to a question about this image: made the first time, kept for the next."""
        if question not in self._known:
            self._known[question] = make()
        answer: Answer = self._known[question]
        return answer

    def movable(self) -> list[int]:
        """Parts that the frame does not cut: a cut edge in the middle of a picture is no logic."""
        return [i for i, cut in enumerate(self.cuts) if cut.whole_in(self.size_HW)]

    def parts_HW(self) -> np.ndarray:
        """Where any part is, bool; not to be written to."""
        return self.once(lambda: self.union(np.arange(len(self))), "parts")

    def union(self, parts_N: np.ndarray) -> np.ndarray:
        """Where any of these parts is, (H, W) bool; `parts_N` are numbers, or bools."""
        masks_NHW = self.proposals.masks_NHW[parts_N]
        return masks_NHW.view(np.uint8).max(0, initial=0).astype(np.bool_)  # `any` is slower

    def ground(self, target: int) -> np.ndarray:
        """Where the target may lie: the foreground when it is surrounded by it, else all but it.

        Not to be written to.
        """
        return self.once(lambda: self._ground(target), "ground", target)

    def _ground(self, target: int) -> np.ndarray:
        mask_HW, foreground_HW = self.proposals.masks_NHW[target], self.proposals.foreground_HW
        cut = self.cuts[target]
        x0, y0, x1, y1 = cut.box_4
        near = np.s_[max(0, y0 - RING) : y1 + RING, max(0, x0 - RING) : x1 + RING]
        kernel = np.ones((2 * RING + 1, 2 * RING + 1), np.uint8)
        inside_hw = mask_HW[near]
        ring_hw = cv2.dilate(inside_hw.astype(np.uint8), kernel).astype(np.bool_) & ~inside_hw
        on_product = foreground_HW[near][ring_hw].mean() >= 0.5 if ring_hw.any() else True
        return (foreground_HW if on_product else ~foreground_HW) | mask_HW

    def crowded(self, cut: Cut, targets: tuple[int, ...], reach: float) -> float:
        """Share of a cut that lies on parts of no more than `reach` pixels beside the targets.

        Larger parts (a compartment, a label) are ground to stand on, not obstacles.
        """
        x0, y0, x1, y1 = box_4 = cut.box_4
        others = [
            part
            for part, (other, area) in enumerate(zip(self.cuts, self.areas_N.tolist(), strict=True))
            if area <= reach and part not in targets and not apart(box_4, other.box_4)
        ]
        if not others:
            return 0.0
        taken_hw = np.zeros(cut.mask_hw.shape, np.bool_)
        for part in others:
            taken_hw |= self.proposals.masks_NHW[part, y0:y1, x0:x1]
        for target in targets:
            taken_hw &= ~self.proposals.masks_NHW[target, y0:y1, x0:x1]
        return float(np.count_nonzero(taken_hw & cut.mask_hw)) / max(1, cut.area)

    def look(self, part: int, cell: int) -> Look:
        """A part's thumbnail with cells of so many pixels."""
        return self.once(lambda: look_of(self.cuts[part], self.image_HW3, cell), "look", part, cell)

    def own_look(self, part: int) -> Look:
        """A part's thumbnail with cells of its own size."""
        return self.look(part, cell_of(self.cuts[part]))

    def alike(self, first: int, second: int) -> bool:
        """True when two parts of this image are of one kind: alike in some turn of one of them."""
        cell = cell_of(self.cuts[first])
        return self.once(
            lambda: same_kind(self.look(first, cell), self.look(second, cell)),
            "alike", first, second,
        )  # fmt: skip

    def stands_out(self, target: int, ref: DonorRef, donors: Donors, *, in_colour: bool) -> bool:
        """True when a donor's part is of another kind than the target (and another colour)."""
        mine = self.own_look(target)
        theirs = self.lent_look(ref, donors, cell_of(self.cuts[target]))
        if in_colour and not _far(mine, theirs):
            return False
        return not self.once(lambda: same_kind(theirs, mine), "alike", target, ref)

    def far_in_colour(self, first: int, second: int) -> bool:
        """True when the mean colours of two parts are clearly different ones."""
        if self.image_HW3 is None:
            return False
        return self.once(
            lambda: _far(self.own_look(first), self.own_look(second)),
            "far", min(first, second), max(first, second),
        )  # fmt: skip

    def lies_anyhow(self, target: int, donors: Donors) -> bool:
        """True when a part of the target's kind is seen, here or in a donor, in another turn.

        Then its orientation means nothing: a walnut on a tray, a screw on a table. Of one kind are
        parts that look alike in some turn, and parts of like colour, area and slenderness.
        """
        return self.once(lambda: self._turned_here(target), "anyhow", target) or any(
            self.once(partial(self._turned_there, target, ref, donors), "anyhow", target, ref)
            for ref in donors.parts
            if self._of_like_size(target, ref.area)
        )

    def _turned_here(self, target: int) -> bool:
        cell = cell_of(self.cuts[target])
        mine = self.own_look(target)
        return any(
            same_but_turned(mine, self.look(part, cell))
            for part, area in enumerate(self.areas_N.tolist())
            if part != target and self._of_like_size(target, area)
        )

    def _turned_there(self, target: int, ref: DonorRef, donors: Donors) -> bool:
        cell = cell_of(self.cuts[target])
        return same_but_turned(self.own_look(target), self.lent_look(ref, donors, cell))

    def _of_like_size(self, target: int, area: int) -> bool:
        mine = int(self.areas_N[target])
        return max(mine, area) <= SIMILAR_AREA * min(mine, area)

    def lent_look(self, ref: DonorRef, donors: Donors, cell: int) -> Look:
        """The thumbnail of a donor's part."""
        return self.once(lambda: self._lent_look(ref, donors, cell), "lent", ref, cell)

    def _lent_look(self, ref: DonorRef, donors: Donors, cell: int) -> Look:
        pixels_HW3 = None if self.image_HW3 is None else donors.part(ref)[0]
        return look_of(self.lent_cut(ref, donors), pixels_HW3, cell)

    def lent_cut(self, ref: DonorRef, donors: Donors) -> Cut:
        """The outline of a donor's part."""
        return self.once(lambda: Cut.of(donors.part(ref)[1]), "lent cut", ref)

    def colour(self, part: int) -> np.ndarray | None:
        """The mean CIELAB colour of a part, (3,) float32; None without the image."""
        if self.image_HW3 is None:
            return None
        return self.own_look(part).mean_3


def _far(one: Look, other: Look) -> bool:
    """True when the paints of two looks are clearly different ones."""
    return float(np.linalg.norm(one.paint_3 - other.paint_3)) >= OTHER_COLOUR


def stock_of(proposals: ObjectProposals, image_HW3: np.ndarray | None) -> Stock:
    """The stock of an image; the last ones are kept, for an image is planned for many times."""
    stock = _kept(proposals)
    if stock.image_HW3 is not image_HW3:
        stock.image_HW3 = image_HW3
        stock._known.clear()
    return stock


@lru_cache(maxsize=4)
def _kept(proposals: ObjectProposals) -> Stock:
    cuts = [Cut.of(mask_HW) for mask_HW in proposals.masks_NHW]
    return Stock(proposals, None, cuts, np.array([cut.area for cut in cuts], np.int64))
