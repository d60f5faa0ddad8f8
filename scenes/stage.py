"""The image while it is being drawn: layers with soft shadows, and the owner of each pixel."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from scenes.lighting import Light
from scenes.planes import mix, triple
from scenes.records import Pose
from scenes.shapes import Patch

Array = np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Sprite:
    """A drawn part on its patch: linear colour, coverage, and where it is damaged (0-1).

    `lift` is its height above the surface (product-frame units), which sets the length of its drop
    shadow; `shadow` is the strength of that shadow, 0-1.
    """

    patch: Patch
    rgb_HW3: Array
    alpha_HW: Array
    flaw_HW: Array | None = None
    lift: float = 0.0
    shadow: float = 0.55


class Stage:
    """A linear-light canvas of size x size with an owner per pixel and ground-truth regions."""

    def __init__(self, size: int, light: Light, pose: Pose, background_HW3: Array) -> None:
        self.size, self.light, self.pose = size, light, pose
        self.image_HW3 = np.ascontiguousarray(background_HW3, np.float32)
        # -1 is background or product without parts.
        self.owner_HW = np.full((size, size), -1, np.int16)
        self.product_HW = np.zeros((size, size), bool)
        self.regions: dict[int, Array] = {}

    def patch(
        self,
        x: float,
        y: float,
        radius: float,
        angle: float = 0.0,
        over: int = 2,
        narrow: float | None = None,
    ) -> Patch:
        """The window of that radius around a product-frame point, turned by pose and `angle`.

        `narrow` is a smaller half width, for tall bodies of an upright product.
        """
        pose, size = self.pose, self.size
        c, s = np.cos(pose.angle), np.sin(pose.angle)
        # The centre of the part in pixels, after the pose of the product.
        u, v = (x - 0.5) * pose.scale, (y - 0.5) * pose.scale
        px = size * (0.5 + pose.dx + c * u - s * v)
        py = size * (0.5 + pose.dy + s * u + c * v)
        # Two pixels of margin for the soft edge.
        reach = radius * size * pose.scale + 2
        wide = reach if narrow is None else narrow * size * pose.scale + 2
        left, top = max(0, int(px - wide)), max(0, int(py - reach))
        right, bottom = min(size, int(px + wide) + 2), min(size, int(py + reach) + 2)
        width, height = max(1, right - left), max(1, bottom - top)
        scale = size * pose.scale
        # Centres of the samples, relative to the part, in product-frame units.
        gx = ((np.arange(width * over) + 0.5) / over + left - px) / scale
        gy = ((np.arange(height * over) + 0.5) / over + top - py) / scale
        gx, gy = gx.astype(np.float32)[None, :], gy.astype(np.float32)[:, None]
        # One rotation by pose and part angle gives the local coordinates; float32 halves the work.
        c, s = np.float32(np.cos(pose.angle + angle)), np.float32(np.sin(pose.angle + angle))
        return Patch(
            top, left, height, width, over, 1 / (scale * over), c * gx + s * gy, c * gy - s * gx
        )

    def long_patch(
        self, x: float, y: float, half_long: float, half_wide: float, angle: float, over: int = 2
    ) -> Patch:
        """The upright window around a turned rectangle: no work on a long part's empty corners."""
        c, s = abs(math.cos(self.pose.angle + angle)), abs(math.sin(self.pose.angle + angle))
        tall, wide = s * half_long + c * half_wide, c * half_long + s * half_wide
        return self.patch(x, y, tall, angle, over, narrow=wide)

    def put(
        self,
        sprite: Sprite,
        owner: int | None = None,
        region: int | None = None,
        ghost: bool = False,
    ) -> None:
        """Lay a sprite on top. With `ghost` only its place is noted as the region."""
        p = sprite.patch
        alpha_HW = self._shrink(sprite.alpha_HW, p)
        mask_HW = alpha_HW > 0.5
        window = np.s_[p.top : p.top + p.height, p.left : p.left + p.width]
        # The shadow falls on what is already drawn; the part then covers it.
        if not ghost:
            if sprite.lift and sprite.shadow:
                self._cast(alpha_HW, p, sprite.lift, sprite.shadow)
            # Colour is averaged with premultiplied coverage, otherwise edges would take in
            # uncovered samples.
            rgb_HW3 = self._shrink(sprite.rgb_HW3 * triple(sprite.alpha_HW), p)
            canvas_HW3 = self.image_HW3[window]
            canvas_HW3 *= triple(1 - alpha_HW)
            canvas_HW3 += rgb_HW3
            self.product_HW[window] |= mask_HW
            # A part drawn later hides what an earlier region marked below it.
            for other_HW in self.regions.values():
                other_HW[window] &= ~mask_HW
            if owner is not None:
                self.owner_HW[window][mask_HW] = owner
        if region is not None:
            if sprite.flaw_HW is not None and not ghost:
                # Lower than 0.5: soft damage (stains, mould) is visible before it covers half.
                mask_HW = self._shrink(sprite.flaw_HW, p) > 0.35
            self.mark(region, p, mask_HW)

    def mark(self, region: int, patch: Patch, mask_HW: Array) -> None:
        """Add pixels of a patch to a ground-truth region."""
        whole_HW = self.regions.setdefault(region, np.zeros((self.size, self.size), bool))
        whole_HW[patch.top : patch.top + patch.height, patch.left : patch.left + patch.width] |= (
            mask_HW
        )

    def blend(self, patch: Patch, rgb: Array, alpha_HW: Array) -> None:
        """Blend something thin on top (film, glass, stain): it owns no pixels, casts no shadow."""
        colour = self._shrink(rgb, patch) if rgb.ndim == 3 else rgb
        window = self.window(patch)
        window[...] = mix(window, colour, self._shrink(alpha_HW, patch))

    def window(self, patch: Patch) -> Array:
        """The canvas under a patch, as a view."""
        return self.image_HW3[
            patch.top : patch.top + patch.height, patch.left : patch.left + patch.width
        ]

    def _shrink(self, array: Array, patch: Patch) -> Array:
        if patch.over == 1:
            return np.asarray(array, np.float32)
        return cv2.resize(
            np.ascontiguousarray(array, np.float32),
            (patch.width, patch.height),
            interpolation=cv2.INTER_AREA,
        )

    def _cast(self, alpha_HW: Array, patch: Patch, lift: float, strength: float) -> None:
        """Darken what lies below: a blurred drop shadow away from the lamp, and a contact line."""
        scale = self.size * self.pose.scale
        # Similar triangles: the lower the lamp (light.z), the longer the shadow.
        length = lift * scale / self.light.z
        dx, dy = -self.light.x * length, -self.light.y * length
        blur = max(0.6, 0.45 * lift * scale * self.light.softness)
        # The window grows by the shadow's length and three standard deviations of its blur.
        pad = int(abs(length) + 3 * blur) + 3
        top, left = max(0, patch.top - pad), max(0, patch.left - pad)
        bottom = min(self.size, patch.top + patch.height + pad)
        right = min(self.size, patch.left + patch.width + pad)
        move = np.array([[1, 0, patch.left - left + dx], [0, 1, patch.top - top + dy]], np.float32)
        shape = (right - left, bottom - top)
        if blur > 3:
            # A wide blur looks the same from half the pixels, at a quarter of the work.
            half = (max(1, shape[0] // 2), max(1, shape[1] // 2))
            small = cv2.resize(
                cv2.warpAffine(alpha_HW, move, shape), half, interpolation=cv2.INTER_AREA
            )
            drop = cv2.resize(
                cv2.GaussianBlur(small, (0, 0), blur / 2), shape, interpolation=cv2.INTER_LINEAR
            )
        else:
            drop = cv2.GaussianBlur(cv2.warpAffine(alpha_HW, move, shape), (0, 0), blur)
        # The contact shadow moves only a fifth as far and is much sharper.
        move[:, 2] -= 0.8 * dx, 0.8 * dy
        contact = cv2.GaussianBlur(
            cv2.warpAffine(alpha_HW, move, shape), (0, 0), max(0.7, 0.16 * lift * scale)
        )
        shade = (1 - strength * drop) * (1 - 0.7 * strength * contact)
        self.image_HW3[top:bottom, left:right] *= triple(shade)
