"""What a repeating background looks like behind the product that stands on it.

Every pixel is predicted from the copies that the lattice offers (`lattice.py`): their median, in
the light of the place. Pixels of the background itself are predicted in the same way, which shows
how good the prediction is.

Shapes: H, W image; T translations; 3 colour (RGB, float32, 0-255).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from pipeline.imaging.lattice import lattice_of, trend
from pipeline.imaging.masks import dilated
from pipeline.imaging.region_values import copy_region, median, values_in
from pipeline.settings import pixels_at
from pipeline.utils.free_memory import give_back

# Pixels at 256 around the product that are no clean background: soft edges and shadows.
HALO = 4
# Components of the foreground below this share of the largest one may be background.
SMALL = 0.2
# The nearest copies that are used, and those without which a pixel is not known.
COPIES, LEAST = 24, 2
# What the middle half of a normal distribution spans, in standard deviations.
HALF = 1.349
# More than any grey level: sorts what is not seen to the end.
BEYOND = 1e6
# Share of the background that copies must show, and of the pattern's variance that they explain.
# Measured: boards 1.0, and 0.82 to 0.91.
SHOWN, EXPLAINED = 0.5, 0.6
# Grey levels by which whole numbers are off in any case, one standard deviation: a drawn image has
# no other noise.
ROUNDING = 0.3
# Light is followed by means over these shares of the image's side, the finest that is known, at a
# reduced side in pixels.
LIGHT = (0.03, 0.1, 0.3)
SLOW_SIDE = 128
# Pixels at 256 around the product that may be shadowed.
SHADOW = 12
# Grey levels beyond which a deviation is no light.
MOST_LIGHT = 20.0
# Bytes of copies that are compared at once.
AT_ONCE = 1 << 25


@dataclass(frozen=True, slots=True, eq=False)
class RepeatedBackground:
    """The predicted background of one image.

    `image_HW3` is float32 RGB, `known_HW` bool where it is known, `noise_HW3` float32 how much the
    background deviates from it there (one standard deviation, grey levels), and `period` the
    length of the shortest translation in pixels.
    """

    image_HW3: np.ndarray
    known_HW: np.ndarray
    noise_HW3: np.ndarray
    period: float
    # The colour of the background without its pattern, (3,) float32, once it was asked for.
    _even: list[np.ndarray] = field(default_factory=list, repr=False)

    def flattened(
        self, image_HW3: np.ndarray, near: tuple[slice, slice] = np.s_[:, :]
    ) -> np.ndarray:
        """An image (uint8) of that background as if it were even in the window `near`, uint8: its
        pattern vanishes."""
        # Every edit asks.
        if not self._even:
            self._even.append(median(values_in(self.image_HW3, self.known_HW)))
        flat_HW3, flat_hw3 = image_HW3.copy(), image_HW3[near] - self.image_HW3[near]
        flat_hw3 += self._even[0]
        flat_hw3 = np.clip(np.rint(flat_hw3, out=flat_hw3), 0, 255, out=flat_hw3)
        copy_region(flat_hw3.astype(np.uint8), self.known_HW[near], flat_HW3[near])
        return flat_HW3


def repeated_background(image_HW3: np.ndarray, product_HW: np.ndarray) -> RepeatedBackground | None:
    """The background of an image (uint8) behind its product (bool); None where it does not
    repeat."""
    # The search takes several times the memory of what is found: no holes that others left in the
    # heap shall come on top, and none of its own stay.
    give_back(product_HW.size)
    found = _predicted(image_HW3, product_HW)
    give_back(product_HW.size)
    return found


def _predicted(image_HW3: np.ndarray, product_HW: np.ndarray) -> RepeatedBackground | None:
    size_HW = product_HW.shape[0], product_HW.shape[1]
    background_HW = ~dilated(_large(product_HW), round(pixels_at(HALO, size_HW)))
    lattice_T2 = lattice_of(image_HW3, background_HW)
    if lattice_T2 is None:
        return None
    # In place from here on: each such array of a large image takes 12 bytes per pixel.
    pattern_HW3 = image_HW3.astype(np.float32)
    trend_HW3 = trend(pattern_HW3, background_HW)
    pattern_HW3 -= trend_HW3
    middle_HW3, spread_HW3, known_HW = _median(pattern_HW3, background_HW, lattice_T2[:COPIES])
    told_HW = background_HW & known_HW
    if np.count_nonzero(told_HW) < SHOWN * np.count_nonzero(background_HW):
        return None
    power = float(np.square(pattern_HW3[told_HW]).sum())
    off_HW3 = np.subtract(pattern_HW3, middle_HW3, out=pattern_HW3)
    if float(np.square(off_HW3[told_HW]).sum()) > (1 - EXPLAINED) * power:
        return None
    # Not from beside the product, which darkens the background around it.
    lit_HW = told_HW & ~dilated(product_HW, round(pixels_at(SHADOW, size_HW)))
    light_HW3 = _light(off_HW3, lit_HW)
    off_HW3 -= light_HW3
    noise_3 = 1.4826 * median(np.abs(values_in(off_HW3, told_HW)))
    noise_3 = np.maximum(noise_3, ROUNDING)
    noise_HW3 = np.square(spread_HW3, out=spread_HW3)
    noise_HW3 += np.square(noise_3)
    np.sqrt(noise_HW3, out=noise_HW3)
    trend_HW3 += middle_HW3
    trend_HW3 += light_HW3
    predicted_HW3 = np.clip(trend_HW3, 0, 255, out=trend_HW3)
    return RepeatedBackground(predicted_HW3, known_HW, noise_HW3, float(np.hypot(*lattice_T2[0])))


def _large(product_HW: np.ndarray) -> np.ndarray:
    """The product without its small components, which may be holes of the background."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(product_HW.astype(np.uint8))
    areas_L = stats[:, cv2.CC_STAT_AREA]
    large_L = areas_L >= SMALL * areas_L[1:].max(initial=0)
    large_L[0] = False
    found_HW: np.ndarray = large_L[labels_HW]
    return found_HW


def _median(
    pattern_HW3: np.ndarray, background_HW: np.ndarray, lattice_T2: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median of all copies of each pixel that are background, (H, W, 3), their spread about it
    (H, W, 3), and where there are enough of them (H, W)."""
    height, width = background_HW.shape
    middle_HW3, spread_HW3 = np.zeros_like(pattern_HW3), np.zeros_like(pattern_HW3)
    known_HW = np.zeros_like(background_HW)
    rows = max(1, AT_ONCE // (len(lattice_T2) * width * 3 * 4))
    mask_HW = background_HW.astype(np.float32)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        copies_Thw3 = np.empty((len(lattice_T2), bottom - top, width, 3), np.float32)
        seen_Thw = np.empty(copies_Thw3.shape[:3], np.bool_)
        for number, shift_2 in enumerate(lattice_T2):
            copies_Thw3[number] = _moved(pattern_HW3, shift_2, top, bottom, cv2.INTER_CUBIC)
            seen_Thw[number] = _moved(mask_HW, shift_2, top, bottom, cv2.INTER_LINEAR) > 0.99
        count_hw = seen_Thw.sum(0)
        middle_HW3[top:bottom], spread_HW3[top:bottom] = _middle(copies_Thw3, seen_Thw, count_hw)
        known_HW[top:bottom] = count_hw >= LEAST
    return middle_HW3, spread_HW3, known_HW


def _moved(
    image_HWC: np.ndarray, shift_2: np.ndarray, top: int, bottom: int, how: int
) -> np.ndarray:
    """Some rows of an image, each pixel taken from `shift_2` (x, y) away; zeros from outside."""
    matrix_23 = np.array([[1, 0, shift_2[0]], [0, 1, shift_2[1] + top]])
    size = image_HWC.shape[1], bottom - top
    moved: np.ndarray = cv2.warpAffine(image_HWC, matrix_23, size, flags=how | cv2.WARP_INVERSE_MAP)
    return moved


def _middle(
    copies_Thw3: np.ndarray, seen_Thw: np.ndarray, count_hw: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread (of the middle half) over the copies that are seen, two of (h, w, 3); 0
    where none is."""
    # Not by index: a mask as index takes 24 bytes per pixel and copy.
    np.copyto(copies_Thw3, np.float32(BEYOND), where=~seen_Thw[..., None])
    copies_Thw3.sort(axis=0)
    last_hw = np.maximum(count_hw, 1) - 1
    places = last_hw // 2, (last_hw + 1) // 2, last_hw // 4, 3 * last_hw // 4
    low_hw3, high_hw3, quarter_hw3, most_hw3 = (
        np.take_along_axis(copies_Thw3, at_hw[None, ..., None], 0)[0] for at_hw in places
    )
    any_hw1 = count_hw[..., None] > 0
    middle_hw3 = np.where(any_hw1, (low_hw3 + high_hw3) / 2, 0)
    spread_hw3 = np.where(any_hw1, most_hw3 - quarter_hw3, 0) / HALF
    return middle_hw3.astype(np.float32), spread_hw3.astype(np.float32)


def _light(off_HW3: np.ndarray, told_HW: np.ndarray) -> np.ndarray:
    """The slow part of the deviations, continued to where nothing tells, (H, W, 3)."""
    even_HW = told_HW & (np.abs(off_HW3).max(2) <= MOST_LIGHT)
    height, width = told_HW.shape
    # So wide a blur needs no full resolution.
    factor = max(1.0, min(height, width) / SLOW_SIDE)
    small = max(1, round(width / factor)), max(1, round(height / factor))
    weight_HW = even_HW.astype(np.float32)
    weight_hw = cv2.resize(weight_HW, small, interpolation=cv2.INTER_AREA)
    sums_hw3 = cv2.resize(off_HW3 * weight_HW[..., None], small, interpolation=cv2.INTER_AREA)
    light_hw3 = np.zeros_like(sums_hw3)
    for share in reversed(LIGHT):
        sigma = share * min(small)
        near_hw1 = cv2.GaussianBlur(weight_hw, (0, 0), sigma)[..., None]
        mean_hw3 = cv2.GaussianBlur(sums_hw3, (0, 0), sigma) / np.maximum(near_hw1, 1e-4)
        trust_hw1 = np.clip(near_hw1 / 0.2, 0, 1)
        light_hw3 = trust_hw1 * mean_hw3 + (1 - trust_hw1) * light_hw3
    return cv2.resize(light_hw3, (width, height), interpolation=cv2.INTER_LINEAR)
