"""The picture while it is being edited: a window of float pixels and the region touched so far.

All work happens in a window around the edit's region, so cost follows the edit and not the image;
only the inpainter sees the whole picture, because it chooses its own window.
"""

from collections.abc import Callable

import numpy as np

from pipeline.edits.compositing.cutout import Cutout
from pipeline.edits.compositing.matting import belonging
from pipeline.edits.compositing.noise_match import calm_level, ground_near, with_grain
from pipeline.edits.compositing.recolor import recoloured
from pipeline.edits.compositing.shadows import shade_around, shade_of
from pipeline.imaging.masks import MaskCrop, clipped, dilated, shifted, window
from pipeline.imaging.noise import RING
from pipeline.records import Edit

MARGIN = RING + 4
"""Pixels around the region that the window holds: grain is measured on a ring outside the hole."""


class Canvas:
    """One edit at work on one picture. Every mask it takes and gives is a window's (h, w) bool."""

    def __init__(
        self,
        source_HW3: np.ndarray,
        edit: Edit,
        objects_NHW: np.ndarray,
        inpaint: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        """`objects_NHW` are the masks of all proposals; `inpaint(hole_HW)` gives the image
        filled."""
        self._whole_HW3, self._inpaint = source_HW3, inpaint
        height, width = source_HW3.shape[:2]
        x0, y0, x1, y1 = self._region = edit.parameters.get("region", (0, 0, width, height))
        self.corner = x0, y0 = max(0, x0 - MARGIN), max(0, y0 - MARGIN)
        self._place = np.s_[y0 : y1 + MARGIN, x0 : x1 + MARGIN]
        self.source_hw3: np.ndarray = source_HW3[self._place].astype(np.float32)
        self.work_hw3: np.ndarray = self.source_hw3.copy()
        self.change_hw: np.ndarray = np.zeros(self.source_hw3.shape[:2], np.bool_)
        objects_Nhw = objects_NHW[(slice(None), *self._place)]
        # `any` over the first axis is slower.
        self._objects_hw = objects_Nhw.view(np.uint8).max(0, initial=0) > 0
        self.rng = np.random.default_rng(edit.seed)
        self.seed = edit.seed
        self.dilation = int(edit.parameters["dilation"])
        self.feather = int(edit.parameters["feather"])
        self.reach = max(self.dilation, self.feather)
        self.band = max(1, self.dilation // 2)
        self.restores_noise = bool(edit.parameters["match_noise"])

    def cut(self, mask_HW: np.ndarray) -> np.ndarray:
        """The window's share of a whole mask."""
        return np.ascontiguousarray(mask_HW[self._place])

    def sensor_noise(self) -> np.ndarray:
        """The grain that every calm surface in the window has, (3,) float32."""
        return calm_level(self.source_hw3, np.ones(self.change_hw.shape, np.bool_))

    def without(self, mask_hw: np.ndarray) -> np.ndarray:
        """The window without an object: its dilated mask filled and given grain; float32."""
        hole_hw = dilated(mask_hw, self.dilation)
        hole_HW = self.spread(hole_hw)
        filled_hw3 = self._inpaint(hole_HW)[self._place]
        clean_hw3 = self.source_hw3.copy()
        clean_hw3[hole_hw] = filled_hw3[hole_hw]
        if self.restores_noise:
            grain_3 = calm_level(self.source_hw3, ground_near(hole_hw, self._objects_hw, RING))
            clean_hw3 = with_grain(clean_hw3, hole_hw, grain_3, self.rng)
        return clean_hw3

    def take_away(self, mask_hw: np.ndarray) -> np.ndarray:
        """Fill the dilated mask; returns the window without the object, float32."""
        clean_hw3 = self.without(mask_hw)
        hole_hw = dilated(mask_hw, self.dilation)
        self.work_hw3[hole_hw] = clean_hw3[hole_hw]
        self.change_hw |= hole_hw
        return clean_hw3

    def put_down(
        self,
        piece: Cutout,
        offset: tuple[int, int],
        mask_hw: np.ndarray,
        clean_hw3: np.ndarray,
        beside_hw: np.ndarray | None = None,
    ) -> None:
        """Lay a piece down, moved by the offset, with the shade that it throws around its mask.

        `beside_hw` are other objects that `clean_hw3` lacks too; they are nobody's shade.
        """
        dx, dy = int(offset[0]), int(offset[1])
        reach_hw = dilated(mask_hw, self.reach)
        ring_hw = reach_hw & ~mask_hw
        if beside_hw is not None:
            ring_hw &= ~dilated(beside_hw, self.dilation)
        near = window(reach_hw, self.dilation + 6)  # as far as the smoothing of a shadow looks
        shade_hw = shade_of(
            self.source_hw3[near], clean_hw3[near], ring_hw[near], reach_hw[near], self.dilation
        )
        self._paste(piece.moved(dx, dy), shade_hw, near[1].start + dx, near[0].start + dy)
        self.change_hw |= shifted(reach_hw, dx, dy)

    def lay(self, piece: Cutout, old_hw: np.ndarray, clean_hw3: np.ndarray) -> None:
        """Lay a piece of another outline down in the shade of the part that it replaces."""
        size_hw = self.change_hw.shape
        x, y = piece.x - self.corner[0], piece.y - self.corner[1]
        mask_hw = MaskCrop(piece.mask_hw, x, y).full((size_hw[0], size_hw[1]))
        if not mask_hw.any():
            return
        shade_hw = shade_around(self.source_hw3, clean_hw3, old_hw, mask_hw, self.dilation)
        self._paste(piece, shade_hw, 0, 0)
        self.change_hw |= dilated(mask_hw, self.reach)

    def _paste(self, piece: Cutout, shade_hw: np.ndarray, x: int, y: int) -> None:
        """Darken the ground by factors whose corner lies at x, y, and lay the piece on it."""
        rows, columns = shade_hw.shape
        x0, y0, x1, y1 = clipped((x, y, x + columns, y + rows), self.change_hw.shape)
        if x0 < x1 and y0 < y1:
            self.work_hw3[y0:y1, x0:x1] *= shade_hw[y0 - y : y1 - y, x0 - x : x1 - x, None]
        piece.moved(-self.corner[0], -self.corner[1]).paste(self.work_hw3)

    def recolour(
        self,
        mask_hw: np.ndarray,
        lab: tuple[float, float, float] | None,
        hue: float | None,
    ) -> None:
        """Paint the object in another colour, and no pixel of the ground beside it."""
        painted_hw3 = recoloured(self.source_hw3, mask_hw, lab, hue)
        alpha_hw1 = belonging(self.source_hw3, mask_hw, self.band, self.feather)[..., None]
        self.work_hw3 = alpha_hw1 * painted_hw3 + (1 - alpha_hw1) * self.source_hw3
        self.change_hw |= dilated(mask_hw, self.band)

    def fill(self, mask_hw: np.ndarray, painted_HW3: np.ndarray) -> None:
        """Take a region over from a painted picture of the whole size."""
        self.work_hw3[mask_hw] = painted_HW3[self._place][mask_hw]
        self.change_hw |= mask_hw

    def spread(self, mask_hw: np.ndarray) -> np.ndarray:
        """A window's mask as a mask of the whole picture."""
        mask_HW = np.zeros(self._whole_HW3.shape[:2], np.bool_)
        mask_HW[self._place] = mask_hw
        return mask_HW

    def finish(self, pixels_HW3: np.ndarray) -> np.ndarray:
        """Put what changed into a whole uint8 picture; gives the whole change mask, bool.

        Nothing leaves the region that the plan named, however far an outline was found to reach.
        """
        x0, y0, x1, y1 = self._region
        x, y = self.corner
        inside = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
        change_hw = np.zeros_like(self.change_hw)
        change_hw[inside] = self.change_hw[inside]
        edited_R3 = np.clip(np.rint(self.work_hw3[change_hw]), 0, 255).astype(np.uint8)
        pixels_HW3[self._place][change_hw] = edited_R3
        return self.spread(change_hw)
