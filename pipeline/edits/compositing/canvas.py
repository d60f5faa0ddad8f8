"""The image while it is edited: a window of float pixels, and the region changed so far.

All work happens in a window around the edit's region, so the cost depends on the edit and not on
the image size. Only the inpainter gets the whole image, because it chooses its own window.

Shapes: h, w window; H, W image; 3 colour (RGB, float32, 0-255); N proposals; R changed pixels.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from pipeline.edits.compositing.cutout import Cutout
from pipeline.edits.compositing.levels import SEEN, levelled
from pipeline.edits.compositing.matting import alpha_matte
from pipeline.edits.compositing.noise_match import background_near, calm_level, with_noise
from pipeline.edits.compositing.recolor import recoloured
from pipeline.edits.compositing.shadows import shadow_around, shadow_of
from pipeline.imaging.masks import MaskCrop, clipped, dilated, distance_from, shifted, window
from pipeline.imaging.noise import RING
from pipeline.imaging.region_values import copy_region
from pipeline.imaging.surroundings import ring_around, surrounds
from pipeline.records import Edit, bounding_box

# Pixels around the region that the window holds: sensor noise is measured on a ring outside the
# hole, and the high-pass filter needs a few more.
MARGIN = RING + 4
# Share of its brightness by which a pixel must change to be part of a shadow.
VISIBLE = 1 / 256
# Pixels that the smoothing of a shadow reaches beyond the dilation.
SHADOW_MARGIN = 6


class HoleFill(Protocol):
    """Fills the holes of one image, and keeps for a while what is made of them."""

    def __call__(self, hole_HW: np.ndarray, /) -> np.ndarray:
        """The whole image with the hole filled, (H, W, 3) uint8."""

    def recent(
        self, make: Callable[[], tuple[np.ndarray, ...]], *key: Any
    ) -> tuple[np.ndarray, ...]:
        """The result of `make()`, made of the last hole that was filled, for any edit with this
        key; do not modify it."""


class Canvas:
    """One edit in progress on one image. All masks it takes and returns are (h, w) bool windows."""

    def __init__(
        self,
        source_HW3: np.ndarray,
        edit: Edit,
        objects_NHW: np.ndarray,
        inpaint: HoleFill,
        goes_HW: np.ndarray,
        light_HW: np.ndarray,
        stays_HW: np.ndarray,
    ) -> None:
        """`source_HW3` is uint8; `objects_NHW` are the masks of all proposals; `inpaint`
        fills holes; `goes_HW` is what goes with the edited objects when they are removed, and of
        it `light_HW` where they change the light, which moves with them; `stays_HW` is what no
        hole may cut into."""
        self._whole_HW3, self._inpaint = source_HW3, inpaint
        height, width = source_HW3.shape[:2]
        x0, y0, x1, y1 = self._region = edit.parameters.get("region", (0, 0, width, height))
        self.corner = x0, y0 = max(0, x0 - MARGIN), max(0, y0 - MARGIN)
        self._window = np.s_[y0 : y1 + MARGIN, x0 : x1 + MARGIN]
        self.source_hw3: np.ndarray = source_HW3[self._window].astype(np.float32)
        self.work_hw3: np.ndarray = self.source_hw3.copy()
        self.change_hw: np.ndarray = np.zeros(self.source_hw3.shape[:2], np.bool_)
        self._hole_hw = np.zeros_like(self.change_hw)
        self._objects_NHW = objects_NHW
        self._goes_hw, self._light_hw = self.crop(goes_HW), self.crop(light_HW)
        self._stays_hw = self.crop(stays_HW)
        # Every random number of the edit comes from here, in the order of the calls below.
        self.rng = np.random.default_rng(edit.seed)
        self.seed = edit.seed
        self.dilation = int(edit.parameters["dilation"])
        self.feather = int(edit.parameters["feather"])
        # A pasted object changes pixels as far as its removal would, or as its soft edge reaches.
        self.reach = max(self.dilation, self.feather)
        # How many pixels a proposal's outline may be off, see `matting.alpha_matte`.
        self.band = max(1, self.dilation // 2)
        self.restores_noise = bool(edit.parameters["match_noise"])

    def crop(self, mask_HW: np.ndarray) -> np.ndarray:
        """A full-size mask cropped to the window."""
        return np.ascontiguousarray(mask_HW[self._window])

    def sensor_noise(self) -> np.ndarray:
        """The noise level of the window's calm surfaces, (3,) float32 grey levels."""
        return calm_level(self.source_hw3, np.ones(self.change_hw.shape, np.bool_))

    def without_object(self, mask_hw: np.ndarray) -> np.ndarray:
        """The window with the hole of the mask inpainted and noise added there, float32.

        The canvas itself does not change.
        """
        hole_hw = self._hole(mask_hw)
        hole_HW = self.to_full(hole_hw)
        filled_HW3 = self._inpaint(hole_HW)
        box, where = window(hole_hw, 0), window(hole_HW, 0)
        # Edits of one object leave the same hole again and again.
        bits = np.packbits(hole_hw[box]).tobytes()
        key = where[0].start, where[1].start, hole_hw[box].shape, bits
        level_hw3 = self._inpaint.recent(lambda: (self._levelled(filled_HW3, hole_HW),), *key)[0]
        # Only the hole is taken over: some inpainters alter every pixel.
        clean_hw3 = self.source_hw3.copy()
        copy_region(level_hw3, hole_hw[box], clean_hw3[box])
        if self.restores_noise:
            objects_hw = _objects_beside(self._objects_NHW[(slice(None), *self._window)], hole_hw)
            # Nor do the edges of a wall count as noise.
            beside_hw = background_near(hole_hw, objects_hw | self._stays_hw, RING)
            noise_3 = calm_level(self.source_hw3, beside_hw)
            clean_hw3 = with_noise(clean_hw3, hole_hw, noise_3, self.rng)
        return clean_hw3

    def _levelled(self, filled_HW3: np.ndarray, hole_HW: np.ndarray) -> np.ndarray:
        """The filled hole at the level of its rim, in the hole's box, (h, w, 3) float32.

        By the image around it and not by this window: the hole is the same for every edit.
        """
        near = window(hole_HW, SEEN)
        source_hw3, hole_hw = self._whole_HW3[near].astype(np.float32), hole_HW[near]
        filled_hw3 = source_hw3.copy()
        copy_region(filled_HW3[near].astype(np.float32), hole_hw, filled_hw3)
        objects_hw = _objects_beside(self._objects_NHW[(slice(None), *near)], hole_hw)
        return levelled(filled_hw3, source_hw3, hole_hw, objects_hw)[window(hole_hw, 0)].copy()

    def _hole(self, mask_hw: np.ndarray) -> np.ndarray:
        """What a removal fills: the dilated mask, and what goes with the objects."""
        hole_hw = dilated(mask_hw, self.dilation) | dilated(self._goes_hw, 1)
        return hole_hw & ~self._stays_hw

    def remove_object(self, mask_hw: np.ndarray) -> np.ndarray:
        """Inpaint the hole of the mask in place; returns the window without the object, float32."""
        clean_hw3 = self.without_object(mask_hw)
        hole_hw = self._hole(mask_hw)
        copy_region(clean_hw3, hole_hw, self.work_hw3)
        self._hole_hw |= hole_hw
        self.change_hw |= hole_hw
        return clean_hw3

    def paste_moved(
        self,
        cutout: Cutout,
        offset: tuple[int, int],
        mask_hw: np.ndarray,
        clean_hw3: np.ndarray,
        beside_hw: np.ndarray | None = None,
    ) -> None:
        """Paste an object of this image, moved by `offset` (x, y), together with its shadow.

        `mask_hw` is the object where it was, `clean_hw3` the window without it. `beside_hw` are
        other objects that `clean_hw3` lacks as well; their place tells nothing about the shadow.
        """
        dx, dy = int(offset[0]), int(offset[1])
        reach_hw = dilated(mask_hw, self.reach) | self._light_of(mask_hw, beside_hw)
        ring_hw = reach_hw & ~mask_hw
        if beside_hw is not None:
            ring_hw &= ~dilated(beside_hw, self.dilation)
        near = window(reach_hw, self.dilation + SHADOW_MARGIN)
        shadow_hw3 = shadow_of(
            self.source_hw3[near], clean_hw3[near], ring_hw[near], reach_hw[near], self.dilation
        )
        # The shadow moves with the object, and the change mask with both.
        self._paste(cutout.moved(dx, dy), shadow_hw3, near[1].start + dx, near[0].start + dy)
        self.change_hw |= shifted(reach_hw, dx, dy)

    def _light_of(self, mask_hw: np.ndarray, beside_hw: np.ndarray | None) -> np.ndarray:
        """The light that one object changes: of several objects, it belongs to the nearest."""
        if beside_hw is None or not beside_hw.any():
            return self._light_hw
        return self._light_hw & (distance_from(mask_hw) <= distance_from(beside_hw))

    def paste_new(self, cutout: Cutout, old_hw: np.ndarray, clean_hw3: np.ndarray) -> None:
        """Paste an object with a new outline; it casts the shadow of the object it replaces.

        `old_hw` is the replaced object's mask, `clean_hw3` the window without it.
        """
        size_hw = self.change_hw.shape
        x, y = cutout.x - self.corner[0], cutout.y - self.corner[1]
        # Cutouts have image coordinates; the window begins at `corner`.
        mask_hw = MaskCrop(cutout.mask_hw, x, y).full((size_hw[0], size_hw[1]))
        if not mask_hw.any():
            return
        shadow_hw = shadow_around(
            self.source_hw3, clean_hw3, old_hw, mask_hw, self._light_hw, self.dilation
        )
        self._paste(cutout, shadow_hw[..., None], 0, 0)
        self.change_hw |= dilated(mask_hw, self.reach) | (np.abs(shadow_hw - 1) > VISIBLE)

    def _paste(self, cutout: Cutout, shadow_hw3: np.ndarray, x: int, y: int) -> None:
        """Multiply the window by the shadow factors, whose corner lies at x, y, then paste.

        The factors are per channel, or one for all of them, (h, w, 1)."""
        rows, columns = shadow_hw3.shape[:2]
        x0, y0, x1, y1 = clipped((x, y, x + columns, y + rows), self.change_hw.shape)
        if x0 < x1 and y0 < y1:
            self.work_hw3[y0:y1, x0:x1] *= shadow_hw3[y0 - y : y1 - y, x0 - x : x1 - x]
        cutout.moved(-self.corner[0], -self.corner[1]).paste(self.work_hw3)

    def recolour(
        self,
        mask_hw: np.ndarray,
        lab: tuple[float, float, float] | None,
        hue: float | None,
    ) -> None:
        """Recolour the object, see `recolor.recoloured`; the background stays as it is."""
        recoloured_hw3 = recoloured(self.source_hw3, mask_hw, lab, hue)
        alpha_hw = alpha_matte(self.source_hw3, mask_hw, self.band, self.feather, even=False)
        alpha_hw1 = alpha_hw[..., None]
        # Blend, so that mixed pixels on the outline take only their share of the new colour.
        self.work_hw3 = alpha_hw1 * recoloured_hw3 + (1 - alpha_hw1) * self.source_hw3
        self.change_hw |= dilated(mask_hw, self.band)

    def fill(self, mask_hw: np.ndarray, generated_HW3: np.ndarray) -> None:
        """Take a region over from another image of the full size, uint8."""
        copy_region(generated_HW3[self._window].astype(np.float32), mask_hw, self.work_hw3)
        self.change_hw |= mask_hw

    def hole_HW(self) -> np.ndarray:
        """Where objects were removed, (H, W) bool."""
        return self.to_full(self._hole_hw)

    def to_full(self, mask_hw: np.ndarray) -> np.ndarray:
        """A window mask as a full-size mask, (H, W) bool."""
        mask_HW = np.zeros(self._whole_HW3.shape[:2], np.bool_)
        mask_HW[self._window] = mask_hw
        return mask_HW

    def finish(self, pixels_HW3: np.ndarray) -> np.ndarray:
        """Write the changed pixels into a full uint8 image; returns the change mask, (H, W) bool.

        Nothing outside the region that the plan recorded is written, even where matting found the
        outline to reach farther.
        """
        x0, y0, x1, y1 = self._region
        x, y = self.corner
        inside = np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
        change_hw = np.zeros_like(self.change_hw)
        change_hw[inside] = self.change_hw[inside]
        edited_hw3 = np.clip(np.rint(self.work_hw3), 0, 255).astype(np.uint8)
        # A slice is a view, so this writes into the full image.
        copy_region(edited_hw3, change_hw, pixels_HW3[self._window])
        return self.to_full(change_hw)


def _objects_beside(objects_Nhw: np.ndarray, hole_hw: np.ndarray) -> np.ndarray:
    """The objects in a window, (h, w) bool, without those that surround the hole: a product or a
    compartment is what the hole's background consists of."""
    ring, objects_hw = ring_around(hole_hw, bounding_box(hole_hw)), np.zeros_like(hole_hw)
    for mask_hw in objects_Nhw:
        if not surrounds(mask_hw, ring):
            objects_hw |= mask_hw
    return objects_hw
