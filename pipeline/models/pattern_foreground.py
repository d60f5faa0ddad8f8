"""The product's outline on a background that repeats itself, as a board with holes does.

A foreground network takes along what touches the product: holes beside it, stripes between its
legs. Where the background is predicted (`imaging.repetition`), what equals the prediction is no
part of the product. Only where product and background look alike, black on black, the prediction
tells nothing: such pixels belong to the product where it lies on two opposite sides of them.

Shapes: H, W image; 3 colour (RGB).
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from pipeline.imaging.masks import disc, opened
from pipeline.imaging.region_values import with_labels
from pipeline.imaging.repetition import RepeatedBackground, repeated_background
from pipeline.models.foreground import tidied
from pipeline.models.mask_filter import PRODUCT, largest_component
from pipeline.records import ForegroundMask
from pipeline.settings import pixels_at

# Deviation from the prediction, in its noise, beyond which a pixel is no background.
UNLIKE = 4.0
# Grey levels up to which predicted background and product look alike.
ALIKE = 40.0
# Share of a region unlike the background that the network must take for foreground, and its least
# area in pixels at 256 (of a side): the glint of a hole's far rim is smaller than a bit of a leg.
SEEN, LEAST_SIDE = 0.3, 4.5
# Components and holes of the product below these shares of it are flaws.
MIN_COMPONENT, MAX_HOLE = 0.005, 0.02
# Half of the width in pixels at 256 of what is no part of anything.
SLIVER = 1
# Half of the pixels at 256 across which the product goes on, and dents of its outline are closed.
GAP, DENT = 6, 3
# Smoothing in pixels at 256 of deviations, and of colours that are compared.
FINE, SMOOTH = 0.7, 1.5
# Directions in which the product is looked for on both sides of a pixel, and the reach in pixels
# from which that is done at a lower resolution.
DIRECTIONS = tuple(range(0, 180, 15))
LONGEST = 20
# Share of a mask that must be no known background.
LEFT = 0.5


class PatternForeground:
    """A foreground network; where the background repeats itself its mask ends at the product."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __call__(self, image_HW3: np.ndarray) -> ForegroundMask:
        """Foreground of one image, (H, W, 3) RGB uint8 of any size."""
        found: ForegroundMask = self.network(image_HW3)
        if found.fallback:
            return found
        background = repeated_background(image_HW3, found.mask_HW)
        if background is None:
            return found
        unlike_HW = _unlike(image_HW3, background)
        product_HW = product_mask(image_HW3, found.mask_HW, background, unlike_HW)
        # Nothing stands out: the network may still be right.
        if not product_HW.any():
            return found
        things_HW = opened(unlike_HW, _px(DENT, unlike_HW))
        pattern_HW = background.known_HW & ~product_HW & ~things_HW
        return replace(found, mask_HW=product_HW, pattern_HW=pattern_HW)


def product_mask(
    image_HW3: np.ndarray,
    mask_HW: np.ndarray,
    background: RepeatedBackground,
    unlike_HW: np.ndarray,
) -> np.ndarray:
    """What of a foreground mask is product, (H, W) bool; `unlike_HW` is unlike the background."""
    sliver = _px(SLIVER, mask_HW)
    # Specks are no part of it, or the hole between one and the product would count as product.
    sure_HW = _large(opened(_seen(unlike_HW, mask_HW) & mask_HW, sliver))
    if not sure_HW.any():
        return sure_HW
    alike_HW = _looks_like_product(image_HW3, background, sure_HW)
    between_HW = _between(sure_HW, max(1, round(background.period / 4)))
    off_HW = mask_HW & ~(sure_HW | (between_HW & alike_HW))
    # Slivers along the outline are soft edges, which the network judges better.
    product_HW = opened(mask_HW & ~opened(off_HW, sliver), sliver)
    # A leg before a stripe is one leg.
    product_HW |= _between(product_HW, _px(GAP, mask_HW)) & mask_HW
    product_HW = _closed(product_HW, disc(_px(DENT, mask_HW))) & mask_HW
    return tidied(product_HW, MAX_HOLE, MIN_COMPONENT)


def without_pattern(
    masks_NHW: np.ndarray, scores_N: np.ndarray, foreground: ForegroundMask
) -> tuple[np.ndarray, np.ndarray]:
    """Masks and scores without the background that is known because it repeats itself.

    Masks that are mostly such background, as a hole of the board is, or the product as a whole,
    whose outline is known better, are left out.
    """
    pattern_HW = foreground.pattern_HW
    if pattern_HW is None:
        return masks_NHW, scores_N
    product = PRODUCT * np.count_nonzero(foreground.mask_HW)
    # One after the other: a hundred masks of a large image are a tenth of a GB.
    masks, kept = [], []
    for index, mask_HW in enumerate(masks_NHW):
        left_HW = mask_HW & ~pattern_HW
        left = np.count_nonzero(left_HW)
        if LEFT * max(int(np.count_nonzero(mask_HW)), 1) <= left < product:
            masks.append(largest_component(left_HW)[0])
            kept.append(index)
    return np.array(masks, np.bool_).reshape(-1, *pattern_HW.shape), scores_N[kept]


def _unlike(image_HW3: np.ndarray, background: RepeatedBackground) -> np.ndarray:
    """Where an image is unlike its predicted background, (H, W) bool."""
    off_HW3 = np.abs(image_HW3 - background.image_HW3) / background.noise_HW3
    size_HW = image_HW3.shape[0], image_HW3.shape[1]
    smooth_HW3 = cv2.GaussianBlur(off_HW3, (0, 0), pixels_at(FINE, size_HW))
    unlike_HW: np.ndarray = (smooth_HW3.max(2) > UNLIKE) & background.known_HW
    return unlike_HW


def _seen(unlike_HW: np.ndarray, mask_HW: np.ndarray) -> np.ndarray:
    """The regions that a foreground mask covers to some part; not a scratch beside it."""
    count, labels_HW, stats, _ = cv2.connectedComponentsWithStats(unlike_HW.astype(np.uint8))
    areas_L = stats[:, cv2.CC_STAT_AREA]
    inside_L = np.bincount(labels_HW[mask_HW], minlength=count)
    wanted = np.flatnonzero(inside_L > SEEN * areas_L)
    return with_labels(labels_HW, wanted[wanted > 0])


def _large(mask_HW: np.ndarray) -> np.ndarray:
    """A mask without its smallest regions."""
    _, labels_HW, stats, _ = cv2.connectedComponentsWithStats(mask_HW.astype(np.uint8))
    least = pixels_at(LEAST_SIDE, (mask_HW.shape[0], mask_HW.shape[1])) ** 2
    wanted = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] >= least)
    return with_labels(labels_HW, wanted[wanted > 0])


def _looks_like_product(
    image_HW3: np.ndarray, background: RepeatedBackground, sure_HW: np.ndarray
) -> np.ndarray:
    """Where the background would look like the nearest part of the product, (H, W) bool."""
    inner_HW = cv2.erode(sure_HW.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if not inner_HW.any():
        inner_HW = sure_HW
    _, nearest_HW = cv2.distanceTransformWithLabels(
        (~inner_HW).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    sigma = pixels_at(SMOOTH, (sure_HW.shape[0], sure_HW.shape[1]))
    smooth_HW3 = cv2.GaussianBlur(image_HW3.astype(np.float32), (0, 0), sigma)
    colours_L3 = np.zeros((int(nearest_HW.max()) + 1, 3), np.float32)
    colours_L3[nearest_HW[inner_HW]] = smooth_HW3[inner_HW]
    off_HW3 = np.abs(background.image_HW3 - colours_L3[nearest_HW])
    alike_HW: np.ndarray = off_HW3.max(2) < ALIKE
    return alike_HW


def _between(mask_HW: np.ndarray, reach: int) -> np.ndarray:
    """Pixels with the mask on two opposite sides, less than twice `reach` apart, (H, W) bool.

    A union of closings by lines: they fill the notch that a hole cuts into a straight edge.
    """
    height, width = mask_HW.shape
    # Long lines cost time, and need no full resolution.
    factor = max(1.0, reach / LONGEST)
    small, reach = (round(width / factor), round(height / factor)), round(reach / factor)
    mask_hw = cv2.resize(mask_HW.astype(np.uint8), small, interpolation=cv2.INTER_NEAREST) > 0
    found_hw = np.zeros_like(mask_hw)
    for degrees in DIRECTIONS:
        angle = np.deg2rad(degrees)
        end_2 = np.array([np.cos(angle), np.sin(angle)]) * reach
        line_hw = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
        first, last = (np.rint(reach + sign * end_2).astype(int).tolist() for sign in (-1, 1))
        cv2.line(line_hw, first, last, 1)
        found_hw |= _closed(mask_hw, line_hw)
    found_HW = cv2.resize(
        found_hw.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST
    )
    return found_HW > 0


def _closed(mask_HW: np.ndarray, kernel_hw: np.ndarray) -> np.ndarray:
    """The closing of a mask, outside of which nothing is."""
    pad = len(kernel_hw)
    padded_HW = np.pad(mask_HW, pad).astype(np.uint8)
    return cv2.morphologyEx(padded_HW, cv2.MORPH_CLOSE, kernel_hw)[pad:-pad, pad:-pad] > 0


def _px(length_256: float, mask_HW: np.ndarray) -> int:
    return max(1, round(pixels_at(length_256, (mask_HW.shape[0], mask_HW.shape[1]))))
