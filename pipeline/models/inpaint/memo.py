"""Inpaint each hole of an image only once.

Removing an object, moving it, swapping it and pasting it back all need the background behind it:
the same hole, and a deterministic inpainter. A network takes about a third of a second per hole, so
it runs once per image and hole.
"""

from collections.abc import Callable

import numpy as np

from pipeline.imaging.region_values import copy_region
from pipeline.models.inpaint.base import Inpainter, in_groups
from pipeline.models.inpaint.candidates import CandidateInpainter, FillChoice, FillDistance
from pipeline.records import bounding_box
from pipeline.utils.recent import Recent


class MemoInpainter:
    """The inpainter of one image with a cache of inpainted holes.

    The result is the inpainter's inside the hole and the image itself outside. Only the bounding
    box of each hole is stored, a few kilobytes each. `avoided(hole_HW)` is what must not be copied
    into a hole, (H, W) bool or None, and `distance`, where it is set, chooses between candidates
    until one is `near_enough`, or far in a hole that holds none of the `objects_NHW`. All must
    depend on the hole alone: the answer is used for every edit with that hole.
    """

    def __init__(
        self,
        inpaint: Inpainter,
        image_HW3: np.ndarray,
        avoided: Callable[[np.ndarray], np.ndarray | None] = lambda hole_HW: None,
    ) -> None:
        self._inpaint, self._image_HW3, self._avoided = inpaint, image_HW3, avoided
        # Set before the first hole by whoever knows the normal images; they are no part of a model.
        self.distance: FillDistance | None = None
        self.near_enough: float | None = None
        # The masks of all objects, (N, H, W) bool; without them every hole may hold one.
        self.objects_NHW: np.ndarray | None = None
        # What callers make of filled holes.
        self.recent = Recent()
        self._known: dict[tuple[object, ...], tuple[np.ndarray, FillChoice | None]] = {}

    def __call__(
        self, hole_HW: np.ndarray, recorded: FillChoice | None = None
    ) -> tuple[np.ndarray, FillChoice | None]:
        """The image with the hole (bool, not empty) inpainted, RGB uint8 of the image's size.

        And which candidate filled it, None where there is only one inpainter. A `recorded` choice
        is made again without comparing anything.
        """
        x0, y0, x1, y1 = bounding_box(hole_HW)
        box = slice(y0, y1), slice(x0, x1)
        # The mask within its box, as bits: equal boxes may hold different holes.
        key = (
            x0, y0, x1, y1, np.packbits(hole_HW[box]).tobytes(), recorded and recorded.inpainter
        )  # fmt: skip
        if key not in self._known:
            found_HW3, choice = self._filled(hole_HW, recorded)
            # A copy, because a view would keep the whole image alive.
            self._known[key] = found_HW3[box].copy(), choice
        known_hw3, choice = self._known[key]
        filled_HW3 = self._image_HW3.copy()
        copy_region(known_hw3, hole_HW[box], filled_HW3[box])
        return filled_HW3, choice

    def _filled(
        self, hole_HW: np.ndarray, recorded: FillChoice | None
    ) -> tuple[np.ndarray, FillChoice | None]:
        avoid_HW = self._avoided(hole_HW)
        if not isinstance(self._inpaint, CandidateInpainter):
            return in_groups(self._inpaint, self._image_HW3, hole_HW, avoid_HW), None
        if recorded is not None and recorded.inpainter in self._inpaint.inpainters:
            chosen = self._inpaint.inpainters[recorded.inpainter]
            return in_groups(chosen, self._image_HW3, hole_HW, avoid_HW), recorded
        bare = self.objects_NHW is not None and not _holds_object(hole_HW, self.objects_NHW)
        return self._inpaint.choose(
            self._image_HW3, hole_HW, avoid_HW, self.distance, self.near_enough, bare
        )


def _holds_object(hole_HW: np.ndarray, objects_NHW: np.ndarray) -> bool:
    """True when most of an object lies in the hole, as where it is removed."""
    x0, y0, x1, y1 = bounding_box(hole_HW)
    box = slice(y0, y1), slice(x0, x1)
    held_N = np.count_nonzero(objects_NHW[:, *box] & hole_HW[box], axis=(1, 2))
    return bool((2 * held_N > np.count_nonzero(objects_NHW, axis=(1, 2))).any())
