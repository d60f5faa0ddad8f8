"""A part lifted out of a picture, turned or stretched with its grain kept, ready to be laid down.

A piece is the part's own colours and how much of each pixel it covers: no ground comes along, and
its edge is as sharp as it was photographed. Turning and stretching average neighbouring pixels,
which takes grain away; what is lacking is put back, so that noise does not tell what was handled.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from pipeline.edits.compositing.matting import belonging, mean_near
from pipeline.edits.compositing.noise_match import calm_level, with_grain
from pipeline.imaging.masks import MaskCrop, corner_for, moves_whole_pixels, warped

MARGIN = 6
"""Pixels of the surroundings that are lifted with a part, for its edge and for filters."""
BLEED_SIGMA = 1.5
"""How far, in pixels, a part's own colours run over its outline into the margin."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """Pixels (h, w, 3) float32, cover (h, w) float32 in [0, 1], and where their corner lies."""

    pixels_hw3: np.ndarray
    cover_hw: np.ndarray
    x: int
    y: int

    @property
    def mask_hw(self) -> np.ndarray:
        return self.cover_hw >= 0.5

    def moved(self, dx: int, dy: int) -> "Cutout":
        return Cutout(self.pixels_hw3, self.cover_hw, self.x + dx, self.y + dy)

    def paste(self, ground_hw3: np.ndarray) -> None:
        """Lay the piece on the ground, in place; what the window's edge cuts off is lost."""
        height, width = self.cover_hw.shape
        limit_y, limit_x = ground_hw3.shape[:2]
        y0, x0 = max(0, self.y), max(0, self.x)
        y1, x1 = min(limit_y, self.y + height), min(limit_x, self.x + width)
        if y0 < y1 and x0 < x1:
            inner = np.s_[y0 - self.y : y1 - self.y, x0 - self.x : x1 - self.x]
            cover_hw1 = self.cover_hw[inner][..., None]
            place = np.s_[y0:y1, x0:x1]
            beneath_hw3 = ground_hw3[place]
            ground_hw3[place] = cover_hw1 * self.pixels_hw3[inner] + (1 - cover_hw1) * beneath_hw3


def lifted(image_HW3: np.ndarray, cut: MaskCrop, band: int, feather: int) -> Cutout:
    """A part without the ground it lay on; its outline may be wrong by `band` pixels."""
    x0, y0, x1, y1 = cut.box_4
    mask_hw = np.pad(cut.mask_hw, MARGIN)
    height, width = image_HW3.shape[:2]
    rows = np.clip(np.arange(y0 - MARGIN, y1 + MARGIN), 0, height - 1)
    columns = np.clip(np.arange(x0 - MARGIN, x1 + MARGIN), 0, width - 1)
    pixels_hw3 = image_HW3[np.ix_(rows, columns)].astype(np.float32)
    cover_hw = belonging(pixels_hw3, mask_hw, band, feather)
    return Cutout(_bled(pixels_hw3, cover_hw >= 0.95), cover_hw, x0 - MARGIN, y0 - MARGIN)


def reshaped(
    piece: Cutout,
    matrix_22: np.ndarray,
    camera_3: np.ndarray,
    rng: np.random.Generator | None,
) -> Cutout:
    """The piece under a linear map about its middle; with `rng` the grain it lost is put back.

    `camera_3` is the grain of the picture around it: no more is given back, the rest is texture.
    """
    pixels_hw3, cover_hw = piece.pixels_hw3, piece.cover_hw
    shrink = float(np.sqrt(np.abs(np.linalg.det(matrix_22))))
    if shrink < 0.99:  # or fine texture would fold back into coarse patterns
        sigma = 0.4 * float(np.sqrt(shrink**-2 - 1))
        pixels_hw3 = cv2.GaussianBlur(pixels_hw3, (0, 0), sigma)
        cover_hw = cv2.GaussianBlur(cover_hw, (0, 0), sigma)
    after_hw3 = np.clip(warped(pixels_hw3, matrix_22, cubic=True), 0, 255)
    cover_hw = _sharp(warped(cover_hw, matrix_22), shrink)
    sure_hw = (piece.cover_hw >= 0.95).astype(np.float32)
    after_hw3 = _bled(after_hw3, warped(sure_hw, matrix_22) > 0.9)
    if rng is not None and not moves_whole_pixels(matrix_22):
        grain_3 = np.minimum(camera_3, calm_level(piece.pixels_hw3, _core(piece.mask_hw)))
        core_hw = _core(cover_hw >= 0.5)
        after_hw3 = with_grain(after_hw3, cover_hw > 0, grain_3, rng, core_hw)
    height, width = piece.cover_hw.shape
    centre = piece.x + width / 2, piece.y + height / 2
    return Cutout(after_hw3, cover_hw, *corner_for(cover_hw.shape, centre))


def _sharp(cover_hw: np.ndarray, scale: float) -> np.ndarray:
    """Cover whose edge became wider with the part, narrowed again about its middle."""
    return np.clip(0.5 + (cover_hw - 0.5) * max(1.0, scale), 0, 1) if scale > 1.01 else cover_hw


def _bled(pixels_hw3: np.ndarray, known_hw: np.ndarray) -> np.ndarray:
    """The picture with the colours of the known region continued outside it."""
    near_hw3, weight_hw1 = mean_near(pixels_hw3, known_hw, BLEED_SIGMA)
    far_hw3, _ = mean_near(pixels_hw3, known_hw, 4 * BLEED_SIGMA)
    share_hw1 = np.clip(weight_hw1 / 0.05, 0, 1)  # beyond the near blur's reach its ratio is noise
    colour_hw3 = share_hw1 * near_hw3 + (1 - share_hw1) * far_hw3
    return np.where(known_hw[..., None], pixels_hw3, colour_hw3).astype(np.float32)


def _core(mask_hw: np.ndarray) -> np.ndarray:
    """The mask without its rim, where the outline's own step would count as grain."""
    core_hw = cv2.erode(mask_hw.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.bool_)
    return core_hw if core_hw.sum() >= 32 else mask_hw
