"""Cut an object out of an image, and rotate or scale it with its sensor noise restored.

A cutout holds the object's own colours and its cover (alpha) per pixel. It brings no background
along, and its edge is as sharp as in the photograph. Rotating and scaling interpolate, which
averages noise away; the missing noise is added again, so that it does not reveal the edit.

Shapes: h, w the cutout's box; H, W image; 3 colour (RGB, float32, 0-255); 22 a linear map.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from pipeline.edits.compositing.light import Light
from pipeline.edits.compositing.matting import alpha_matte
from pipeline.edits.compositing.noise_match import calm_level, with_noise
from pipeline.imaging.masks import MaskCrop, corner_for, moves_whole_pixels, warped
from pipeline.imaging.near_region import mean_near
from pipeline.imaging.region_values import copy_region

# Pixels of margin around an object's box, for its soft edge and for filters, and in units of the
# outline's `band`, for the background around it.
MARGIN, AROUND = 6, 2
# Gaussian sigma in pixels by which an object's own colours are extended beyond its outline.
EXTEND_SIGMA = 1.5
# Weight of known colours nearby below which their mean is numerical noise.
FAR = 0.05
# Cover up to which a pixel shows background, and from which it shows the object and nothing else.
BACKGROUND, PURE = 0.02, 0.98
# Cover from which the background's share can be taken out of a pixel's colour at all, and from
# which the rest is believed fully: the less is left, the more noise it has.
MIXED, LEFT = 0.35, 0.65
# Cover from which pixels tell which colours an object has nearby, and which pixels are near.
MOSTLY, NEIGHBOURS = 0.8, np.ones((5, 5), np.uint8)
# Cover from which a pixel's own colour is known, and the same after interpolation: pieces that are
# two pixels wide must not vanish.
SURE_COVER, SURE_AFTER = 0.5, 0.7
# Scales from which an object counts as enlarged, and below which as shrunk.
ENLARGED, SHRUNK = 1.01, 0.99
# Unsharp masking of enlarged objects: sigma in pixels of the source, and its strength per scale
# beyond 1. On shrunk screws and nuts, enlarged again, it brings back the original's gradients.
SHARPEN_SIGMA, SHARPEN = 0.8, 1.6


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """Pixels (h, w, 3) float32, cover (h, w) float32 in [0, 1], which pixels certainly show the
    object, bool, and the position of their corner.

    Colours also continue where cover is 0, so that interpolation mixes in no background.
    """

    pixels_hw3: np.ndarray
    cover_hw: np.ndarray
    sure_hw: np.ndarray
    x: int
    y: int

    @property
    def mask_hw(self) -> np.ndarray:
        """Where the object covers at least half of a pixel, bool."""
        return self.cover_hw >= 0.5

    def moved(self, dx: int, dy: int) -> "Cutout":
        return replace(self, x=self.x + dx, y=self.y + dy)

    def under(self, light: Light) -> "Cutout":
        """The cutout in another light."""
        return replace(self, pixels_hw3=light.on(self.pixels_hw3))

    def paste(self, background_hw3: np.ndarray) -> None:
        """Alpha-blend the cutout onto the background, in place; clipped at the window's edges."""
        height, width = self.cover_hw.shape
        limit_y, limit_x = background_hw3.shape[:2]
        y0, x0 = max(0, self.y), max(0, self.x)
        y1, x1 = min(limit_y, self.y + height), min(limit_x, self.x + width)
        if y0 < y1 and x0 < x1:
            inner = np.s_[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]
            cover_hw1 = self.cover_hw[inner][..., None]
            place = np.s_[y0:y1, x0:x1]
            beneath_hw3 = background_hw3[place]
            blended_hw3 = cover_hw1 * self.pixels_hw3[inner] + (1 - cover_hw1) * beneath_hw3
            background_hw3[place] = blended_hw3


def cut_out(image_HW3: np.ndarray, crop: MaskCrop, band: int, feather: int) -> Cutout:
    """An object without its background; its outline may be off by `band` pixels.

    `image_HW3` is uint8; `feather` is the softness in pixels where colours do not tell the edge.
    """
    x0, y0, x1, y1 = crop.box_4
    margin = MARGIN + AROUND * band
    mask_hw = np.pad(crop.mask_hw, margin)
    height, width = image_HW3.shape[:2]
    # Repeat the image's edge pixels where the margin reaches beyond the image.
    rows = np.clip(np.arange(y0 - margin, y1 + margin), 0, height - 1)
    columns = np.clip(np.arange(x0 - margin, x1 + margin), 0, width - 1)
    pixels_hw3 = image_HW3[np.ix_(rows, columns)].astype(np.float32)
    cover_hw = alpha_matte(pixels_hw3, mask_hw, band, feather)
    # What is thinner than its edge is soft has no pixel that is sure by this measure.
    sure_hw = cover_hw >= min(SURE_COVER, float(cover_hw.max()))
    pixels_hw3 = _extended(_own_colours(pixels_hw3, cover_hw, band), sure_hw)
    return Cutout(pixels_hw3, cover_hw, sure_hw, x0 - margin, y0 - margin)


def _own_colours(pixels_hw3: np.ndarray, cover_hw: np.ndarray, band: int) -> np.ndarray:
    """The image with the background's share taken out of the pixels that the object covers in part.

    A rim that is brighter than the inside keeps its colour that way.
    """
    background_hw3, _ = mean_near(pixels_hw3, cover_hw <= BACKGROUND, band)
    cover_hw1 = cover_hw[..., None]
    # In place, and nothing for longer than it is needed: a large image takes 12 bytes per pixel.
    background_hw3 *= 1 - cover_hw1
    rest_hw3 = np.subtract(pixels_hw3, background_hw3, out=background_hw3)
    rest_hw3 /= np.maximum(cover_hw1, MIXED)
    np.clip(rest_hw3, 0, 255, out=rest_hw3)
    # Where cover is a little off, the rest would be darker or brighter than anything nearby.
    most_hw1 = cover_hw1 >= MOSTLY
    highest_hw3 = cv2.dilate(np.where(most_hw1, pixels_hw3, 0), NEIGHBOURS)
    lowest_hw3 = cv2.erode(np.where(most_hw1, pixels_hw3, 255), NEIGHBOURS)
    known_hw3 = lowest_hw3 <= highest_hw3
    np.clip(rest_hw3, lowest_hw3, highest_hw3, out=rest_hw3, where=known_hw3)
    del highest_hw3, lowest_hw3, known_hw3
    pure_hw = cover_hw >= PURE
    near_hw3, weight_hw1 = mean_near(pixels_hw3, pure_hw, EXTEND_SIGMA)
    share_hw1 = np.clip((cover_hw1 - MIXED) / (LEFT - MIXED), 0, 1)
    # A thin piece may hold no pure pixel; then its own colours are all that is known.
    share_hw1 = np.where(weight_hw1 > FAR, share_hw1, 1)
    rest_hw3 -= near_hw3
    rest_hw3 *= share_hw1
    rest_hw3 += near_hw3
    copy_region(pixels_hw3, pure_hw, rest_hw3)
    return rest_hw3


def reshaped(
    cutout: Cutout,
    matrix_22: np.ndarray,
    sensor_noise_3: np.ndarray,
    rng: np.random.Generator | None,
) -> Cutout:
    """The cutout under a linear map about its centre; with `rng` the lost noise is restored.

    `sensor_noise_3` is the noise level of the image around it, and the upper bound of what is
    restored: a higher level on the object itself is texture.
    """
    scale = float(np.sqrt(np.abs(np.linalg.det(matrix_22))))
    if scale < SHRUNK:
        after_hw3, cover_hw, sure_hw = _shrunk(cutout, matrix_22, scale)
    else:
        after_hw3 = np.clip(warped(cutout.pixels_hw3, matrix_22, cubic=True), 0, 255)
        # Enlarging spreads an edge over more pixels; details are raised to look as sharp as around.
        if scale > ENLARGED:
            soft_hw3 = cv2.GaussianBlur(after_hw3, (0, 0), SHARPEN_SIGMA * scale)
            detail_hw3 = np.subtract(after_hw3, soft_hw3, out=soft_hw3)
            detail_hw3 *= SHARPEN * (scale - 1)
            after_hw3 += detail_hw3
            np.clip(after_hw3, 0, 255, out=after_hw3)
            del soft_hw3, detail_hw3
        # Cubic too: bilinear interpolation leaves the steps of the pixels in a sharp edge.
        cover_hw = np.clip(warped(cutout.cover_hw, matrix_22, cubic=True), 0, 1)
        cover_hw = _sharpened(cover_hw, scale)
        # Cubic interpolation mixes pixels across the outline, so the colours are extended again
        # from those that certainly show the object.
        sure_hw = warped(cutout.sure_hw.astype(np.float32), matrix_22) > SURE_AFTER
    after_hw3 = _extended(after_hw3, sure_hw)
    # Quarter turns and mirrors move whole pixels and keep their noise.
    if rng is not None and not moves_whole_pixels(matrix_22):
        noise_3 = np.minimum(sensor_noise_3, calm_level(cutout.pixels_hw3, _core(cutout.mask_hw)))
        core_hw = _core(cover_hw >= 0.5)
        after_hw3 = with_noise(after_hw3, cover_hw > 0, noise_3, rng, core_hw)
    height, width = cutout.cover_hw.shape
    centre = cutout.x + width / 2, cutout.y + height / 2
    return Cutout(after_hw3, cover_hw, sure_hw, *corner_for(cover_hw.shape, centre))


def _shrunk(
    cutout: Cutout, matrix_22: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, cover and what is sure of a cutout that becomes smaller.

    Colours are averaged as far as the object covers: those beyond the outline of a thin lead would
    dim it.
    """
    cover_hw1 = cutout.cover_hw[..., None]
    layers_hw4 = np.concatenate([cutout.pixels_hw3 * cover_hw1, cover_hw1], 2)
    # Low-pass first, or fine texture would alias into coarse patterns.
    layers_hw4 = cv2.GaussianBlur(layers_hw4, (0, 0), 0.4 * float(np.sqrt(scale**-2 - 1)))
    layers_hw4 = warped(layers_hw4, matrix_22, cubic=True)
    cover_hw = np.clip(layers_hw4[..., 3], 0, 1)
    pixels_hw3 = layers_hw4[..., :3] / np.maximum(cover_hw, MIXED)[..., None]
    return np.clip(pixels_hw3, 0, 255, out=pixels_hw3), cover_hw, cover_hw >= MIXED


def _sharpened(cover_hw: np.ndarray, scale: float) -> np.ndarray:
    """Cover whose soft edge was widened by enlarging, narrowed again around 0.5."""
    if scale <= ENLARGED:
        return cover_hw
    return np.clip(0.5 + (cover_hw - 0.5) * max(1.0, scale), 0, 1)


def _extended(pixels_hw3: np.ndarray, known_hw: np.ndarray) -> np.ndarray:
    """The image with the colours of the known region extended beyond it."""
    near_hw3, weight_hw1 = mean_near(pixels_hw3, known_hw, EXTEND_SIGMA)
    far_hw3, _ = mean_near(pixels_hw3, known_hw, 4 * EXTEND_SIGMA)
    # Beyond the reach of the near blur its quotient is numerical noise: blend over to the far one.
    share_hw1 = np.clip(weight_hw1 / FAR, 0, 1)
    # In place: such an array of a large image takes 12 bytes per pixel.
    near_hw3 *= share_hw1
    far_hw3 *= 1 - share_hw1
    near_hw3 += far_hw3
    copy_region(pixels_hw3, known_hw, near_hw3)
    return near_hw3


def _core(mask_hw: np.ndarray) -> np.ndarray:
    """The mask without its rim, where the step at the outline would count as noise."""
    # Small objects keep their rim: too few pixels would be left to measure.
    core_hw = cv2.erode(mask_hw.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
    return core_hw if core_hw.sum() >= 32 else mask_hw
