"""Alpha matting along an object's outline: proposals miss the true outline by a pixel or two.

The outline moves as a whole (`outline_fit.py`), to where the colours of the background end; pixels
judged one by one would make it ragged. An object differs from its background in any direction: a
bright rim is neither like the object's inside nor like the background.

Shapes: h, w window; 3 colour (RGB, float32, 0-255); 1 one value per pixel; P points of an outline;
M samples across it; C layers.
"""

import cv2
import numpy as np

from pipeline.edits.compositing.outline_fit import (
    Outline,
    cover_of,
    fitted,
    outlines_of,
    tried_offsets,
)
from pipeline.imaging.masks import dilated, disc, window
from pipeline.imaging.near_region import mean_near
from pipeline.imaging.products import products, summed

# Gaussian sigma, in units of `band`, of the neighbourhood in which the colours of background and
# object are estimated, and how far these reach beyond the band.
NEAR, REACH = 1.5, 3
# RGB distance from the background that is expected where no inside of an object is near: of legs
# and wires.
CONTRAST = 24.0
# Share of its brightness that a shadow leaves of the background, at least; below, it is an object.
SHADED = 0.6
# How far an object must be off the colours of a shadow, as a share of its distance from the
# background, for shadows to be told from it: not at all up to the first, fully from the second.
HUED = (0.125, 0.375)
# RGB noise of any background, and the distance of an object in units of the background's spread up
# to which colours are not believed, and from which they are believed fully.
NOISE, CLEAR = 3.0, (1.5, 4.5)
# Share of the spread of the background that is no sign of an object.
PLAIN = 0.5
# How far inside a sample, in units of `band`, the object is looked at again: its rim may be farther
# from the background than its inside.
RIM = 0.75
# A pixel is a square, and samples between pixels are interpolated: together they look like this
# Gaussian blur, sigma in pixels.
PIXEL = 0.5
# Bounds of the blur of an edge: sigma in pixels, and in units of `band`.
SHARPEST, SOFTEST = 0.45, 0.5
# Share of the way from background to object that the two sides of an outline must be apart for its
# blur to be measured.
SEEN = 0.5
# Points of an outline below which nothing is measured on it: specks, and holes of a pixel.
FEW = 12
# The spread of a background that is not seen.
UNSEEN = 1e4
# Sigma in pixels from twice of which a blur is taken at a lower resolution.
NARROW = 3.0


def alpha_matte(
    source_hw3: np.ndarray, mask_hw: np.ndarray, band: int, feather: int = 3, *, even: bool = True
) -> np.ndarray:
    """Alpha of the object, (h, w) float32 in [0, 1].

    The outline is moved by up to `band` pixels, to the edge in the image, and as soft as that.
    Where colours show no edge it is the mask's own, `feather` pixels soft. `even` is for objects
    that are cut out; without, pixels on the outline have the alpha that their own colours tell, as
    an object that stays in its place needs.
    """
    alpha_hw = np.zeros(mask_hw.shape, np.float32)
    if not mask_hw.any():
        return alpha_hw
    near = window(mask_hw, (1 + REACH) * band)
    pixels_hw3, inside_hw = source_hw3[near].astype(np.float32, copy=False), mask_hw[near]
    layers_hw3 = _contrast(pixels_hw3, inside_hw, band)
    # Nothing lies beyond the window, so that an object at its edge ends there.
    padded_hw = np.pad(inside_hw, 1).astype(np.uint8)
    depth_hw = cv2.distanceTransform(padded_hw, cv2.DIST_L2, 5)[1:-1, 1:-1]
    tried_K = tried_offsets(band)
    middle_M = (tried_K[1:] + tried_K[:-1]) / 2
    moved, across = [], [np.zeros((0, 4), np.float32)]
    for outline in outlines_of(inside_hw):
        if len(outline.points_P2) < FEW:
            moved.append(outline)
            continue
        object_PM = _like_object(outline, layers_hw3, middle_M, band)
        moved.append(fitted(outline, object_PM, middle_M, depth_hw, band))
        across.append(_across(moved[-1], layers_hw3, band))
    cover_hw = cover_of(moved, inside_hw.shape, band)
    blur = _blur(np.concatenate(across), band)
    sigma = max(feather, 1) / 6 if blur is None else blur
    cover_hw = cv2.GaussianBlur(cover_hw, (0, 0), sigma)
    alpha_hw[near] = cover_hw if even else _told_by_colour(cover_hw, layers_hw3)
    return alpha_hw


def _told_by_colour(cover_hw: np.ndarray, layers_hw3: np.ndarray) -> np.ndarray:
    """Cover (h, w) where the pixels that an outline crosses are as much object as their colours."""
    distance_hw, spread_hw, expected_hw = np.moveaxis(layers_hw3, 2, 0)
    share_hw = np.clip(_share(distance_hw, spread_hw, expected_hw), 0, 1)
    believed_hw = _clear(expected_hw, spread_hw)
    # All of a pixel that lies inside is object, whatever its colour is.
    believed_hw *= np.clip(2 - 4 * np.abs(cover_hw - 0.5), 0, 1)
    return cover_hw + believed_hw * (share_hw - cover_hw)


def _contrast(pixels_hw3: np.ndarray, inside_hw: np.ndarray, band: int) -> np.ndarray:
    """Three layers (h, w, 3) float32: how far pixels are from the background nearby (RGB distance),
    how far the background itself is, root mean square, and how far the object is, on average.

    The spread is huge where no background is near.
    """
    inner_hw = cv2.erode(inside_hw.astype(np.uint8), disc(band)) > 0
    outer_hw = ~dilated(inside_hw, band)
    sigma = NEAR * band
    distances_hw3, seen_hw = _distances(pixels_hw3, outer_hw, sigma)
    object_hw3, inner_hw1 = _wide_mean(distances_hw3, inner_hw, sigma)
    # An object that differs from the background by its shade alone looks like a shadow throughout.
    low, high = HUED
    hued_hw = object_hw3[..., 2] / np.maximum(object_hw3[..., 0], 1)
    hued_hw = np.clip((hued_hw - low) / (high - low), 0, 1)
    known_hw = inner_hw1[..., 0] > 1e-3
    # A view of all its layers.
    del inner_hw1
    # Of a leg or a wire it is not known; measured on legs, a half is right on average.
    hued_hw = np.where(known_hw, hued_hw, 0.5)
    distance_hw = hued_hw * distances_hw3[..., 1] + (1 - hued_hw) * distances_hw3[..., 0]
    expected_hw = hued_hw * object_hw3[..., 1] + (1 - hued_hw) * object_hw3[..., 0]
    expected_hw = np.where(known_hw, expected_hw, CONTRAST)
    del distances_hw3, object_hw3
    spread_hw = np.sqrt(_wide_mean(np.square(distance_hw)[..., None], outer_hw, sigma)[0][..., 0])
    spread_hw = np.where(seen_hw, spread_hw, UNSEEN)
    return np.dstack([distance_hw, spread_hw, expected_hw]).astype(np.float32, copy=False)


def _distances(
    pixels_hw3: np.ndarray, outer_hw: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """RGB distances of pixels (h, w, 3) float32 from the background nearby, from it or its shadow,
    and from the colours of any shadow; and where background is near, (h, w) bool."""
    background_hw3, seen_hw1 = _wide_mean(pixels_hw3, outer_hw, sigma)
    seen_hw = seen_hw1[..., 0] > 1e-3
    del seen_hw1
    full_hw = _off(pixels_hw3, background_hw3.copy())
    # A shadow is the background times a factor; no object is a highlight of it.
    square_hw = np.maximum(products(background_hw3, background_hw3), 1)
    factor_hw1 = np.minimum(products(pixels_hw3, background_hw3) / square_hw, 1)[..., None]
    unshaded_hw = _off(pixels_hw3, np.maximum(factor_hw1, SHADED) * background_hw3)
    off_hw = _off(pixels_hw3, factor_hw1 * background_hw3)
    return np.dstack([full_hw, unshaded_hw, off_hw]), seen_hw


def _like_object(
    outline: Outline, layers_hw3: np.ndarray, offsets_M: np.ndarray, band: int
) -> np.ndarray:
    """How much each sample looks like object (1) or background (-1), (P, M); 0 for unknown."""
    step = float(offsets_M[1] - offsets_M[0])
    deeper = int(np.ceil(RIM * band / step))
    before = offsets_M[0] - step * np.arange(deeper, 0, -1)
    layers_PM3 = outline.sampled(layers_hw3, np.concatenate([before, offsets_M]))
    all_PM, (spread_PM, expected_PM) = (
        layers_PM3[..., 0],
        np.moveaxis(layers_PM3[:, deeper:, 1:], 2, 0),
    )
    count = len(offsets_M)
    for back in range(1, deeper + 1):
        expected_PM = np.maximum(expected_PM, all_PM[:, deeper - back : deeper - back + count])
    share_PM = _share(all_PM[:, deeper:], spread_PM, expected_PM)
    return np.clip(2 * share_PM - 1, -1, 1) * _clear(expected_PM, spread_PM)


def _across(outline: Outline, layers_hw3: np.ndarray, band: int) -> np.ndarray:
    """How much of the object four samples show, (P, 4) float32: a band inside of the outline, half
    a pixel inside, half a pixel outside, and a band outside."""
    offsets_4 = np.array([-band, -0.5, 0.5, band], np.float32)
    distance_P4, spread_P4, expected_P4 = np.moveaxis(outline.sampled(layers_hw3, offsets_4), 2, 0)
    expected_P4 = np.maximum(expected_P4, distance_P4[:, :2].max(1, keepdims=True))
    share_P4 = np.clip(_share(distance_P4, spread_P4, expected_P4), 0, 1)
    return share_P4[_clear(expected_P4[:, 3], spread_P4[:, 3]) == 1]


def _clear(expected: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How far colours are believed, in [0, 1]."""
    low, high = CLEAR
    return np.clip((expected / (spread + NOISE) - low) / (high - low), 0, 1)


def _share(distance: np.ndarray, spread: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Distances from the background as a share of what is expected of the object."""
    plain = PLAIN * spread
    return (distance - plain) / np.maximum(expected - plain, 1)


def _blur(share_P4: np.ndarray, band: int) -> float | None:
    """The blur of the image at an outline, sigma in pixels beyond that of a pixel itself; None
    where too little of the outline is seen."""
    if len(share_P4) < FEW:
        return None
    inside, before, after, outside = share_P4.mean(0).tolist()
    if inside - outside < SEEN:
        return None
    # The slope of an edge that is blurred by a Gaussian.
    slope = max(before - after, 1e-3) / (inside - outside)
    sigma = 1 / (np.sqrt(2 * np.pi) * slope)
    return float(
        np.clip(np.sqrt(max(sigma**2 - PIXEL**2, 0)), SHARPEST, max(SHARPEST, SOFTEST * band))
    )


def _wide_mean(
    layers_hwC: np.ndarray, where_hw: np.ndarray, sigma: float
) -> tuple[np.ndarray, np.ndarray]:
    """`mean_near` for three layers or one; wide blurs are taken at a lower resolution."""
    reduced = int(sigma / NARROW)
    if reduced < 2:
        return mean_near(layers_hwC, where_hw, sigma)
    height, width = where_hw.shape
    weight_hw1 = where_hw.astype(np.float32)[..., None]
    both_hwC = np.concatenate([layers_hwC * weight_hw1, weight_hw1], 2)
    small = -(-width // reduced), -(-height // reduced)
    # By area and linearly, so that the weights keep their sum.
    both_hwC = cv2.resize(both_hwC, small, interpolation=cv2.INTER_AREA)
    both_hwC = cv2.GaussianBlur(both_hwC, (0, 0), sigma / reduced)
    both_hwC = cv2.resize(both_hwC, (width, height), interpolation=cv2.INTER_LINEAR)
    total_hw1 = both_hwC[..., -1:]
    return both_hwC[..., :-1] / np.maximum(total_hw1, 1e-6), total_hw1


def _off(colour_hw3: np.ndarray, other_hw3: np.ndarray) -> np.ndarray:
    """The distances of colours from others, (h, w), in whose memory they are computed."""
    step_hw3 = np.subtract(colour_hw3, other_hw3, out=other_hw3)
    square_hw3 = np.square(step_hw3, out=step_hw3)
    return np.sqrt(summed(square_hw3))
