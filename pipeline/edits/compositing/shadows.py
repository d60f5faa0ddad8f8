"""The contact shadow of an object on the background around it, as a ratio image.

The shadow is the ratio of the image to the image without the object. An object that moves takes
its shadow along unchanged. An object with a new outline gets it by direction and distance, because
the light does not move when an object is rotated.

Shapes: H, W window; 3 colour (RGB, float32, 0-255); R pixels of a region.
"""

import cv2
import numpy as np

from pipeline.imaging.masks import distance_from

# Ratios that count as shadow. Darker ones come from neighbouring objects, brighter ones from
# inpainting errors; both are clipped.
SHADOW_RANGE = (0.35, 1.05)
# Grey levels on both sides of a ratio, which keep it stable in the dark.
STABLE = 4
# Number of directions from an object's centre in which its shadow is tabulated.
BEARINGS = 24


def shadow_of(
    image_HW3: np.ndarray,
    clean_HW3: np.ndarray,
    ring_HW: np.ndarray,
    reach_HW: np.ndarray,
    dilation: int,
) -> np.ndarray:
    """The factor by which an object darkens its surroundings, per channel, (H, W, 3) float32.

    1 outside `reach_HW`. A shadow on wood is redder than the wood: its light comes from the wood.

    It is measured in `ring_HW`, where the background is visible; `clean_HW3` is the image without
    the object. Smoothed, as shadows are, and faded out towards the edge of `reach_HW` so that no
    seam is left there.
    """
    # Normalised convolution: only pixels of the ring contribute.
    weight_HW = ring_HW.astype(np.float32)
    sigma = max(1.0, dilation / 4)
    total_HW1 = cv2.GaussianBlur(weight_HW, (0, 0), sigma)[..., None] + 1e-6
    ratio_HW3 = (image_HW3 + STABLE) / (clean_HW3 + STABLE)
    smooth_HW3 = cv2.GaussianBlur(ratio_HW3 * weight_HW[..., None], (0, 0), sigma) / total_HW1
    fade_HW1 = _fade(reach_HW, dilation)[..., None]
    shadow_HW3 = 1 + (np.clip(smooth_HW3, *SHADOW_RANGE) - 1) * fade_HW1
    return np.where(reach_HW[..., None], shadow_HW3, 1).astype(np.float32)


def shadow_around(
    image_HW3: np.ndarray,
    clean_HW3: np.ndarray,
    old_HW: np.ndarray,
    new_HW: np.ndarray,
    light_HW: np.ndarray,
    dilation: int,
) -> np.ndarray:
    """The shadow of the outline `old_HW` transferred to the outline `new_HW`, (H, W) float32.

    It is tabulated by bearing from the object's centre and distance from its outline: within
    `dilation` pixels, and as far as the object changes the light (`light_HW`).
    """
    shadow_HW = np.ones(old_HW.shape, np.float32)
    distance_HW = distance_from(old_HW)
    reach = max(dilation, int(np.ceil(distance_HW[light_HW].max(initial=0))))
    # Next to the outline, which may be off, the image shows the object itself.
    skipped = dilation // 2
    ring_HW = (distance_HW > skipped) & (distance_HW <= reach)
    if dilation < 1 or not ring_HW.any():
        return shadow_HW
    # Average the ratio in cells of one bearing and one pixel of distance.
    steps_R = np.ceil(distance_HW[ring_HW]).astype(np.int64) - 1
    cells_R = np.floor(_bearings(old_HW, ring_HW)).astype(np.int64) % BEARINGS * reach + steps_R
    ratio_R = np.clip(_ratio(image_HW3[ring_HW], clean_HW3[ring_HW]), *SHADOW_RANGE)
    # Elsewhere neighbours lie, and textures.
    ratio_R[((distance_HW > dilation) & ~light_HW)[ring_HW]] = 1
    sums = np.bincount(cells_R, ratio_R, BEARINGS * reach).reshape(BEARINGS, reach)
    counts = np.bincount(cells_R, minlength=BEARINGS * reach).reshape(BEARINGS, reach)
    table = _smooth(sums, counts)
    table[:, :skipped] = table[:, skipped, None]
    # Look the table up around the new outline. Inside it, too: under the object's own soft edge the
    # background is as dark as beside it.
    distance_HW = distance_from(new_HW)
    near_HW = distance_HW <= reach
    depth_R = np.clip(distance_HW[near_HW] - 0.5, 0, reach - 1)
    value_R = _between(table, _bearings(new_HW, near_HW) - 0.5, depth_R)
    fade_R = np.clip((reach + 0.5 - distance_HW[near_HW]) / dilation, 0, 1)
    shadow_HW[near_HW] = 1 + (value_R - 1) * fade_R
    return shadow_HW


def _ratio(image_HW3: np.ndarray, clean_HW3: np.ndarray) -> np.ndarray:
    """Brightness of one image divided by that of another; any leading axes."""
    bright, clean = (
        (image[..., 0] + image[..., 1] + image[..., 2]) / np.float32(3) + STABLE
        for image in (image_HW3, clean_HW3)
    )
    return (bright / clean).astype(np.float32)


def _fade(reach_HW: np.ndarray, dilation: int) -> np.ndarray:
    """1 inside, falling to 0 over the last `dilation` pixels before the region's edge."""
    edge_HW = cv2.distanceTransform(reach_HW.astype(np.uint8), cv2.DIST_L2, 3)
    return np.clip((edge_HW - 0.5) / max(dilation, 1), 0, 1)


def _bearings(mask_HW: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """The direction of a region's pixels from the mask's centre of gravity, 0 to `BEARINGS`."""
    ys, xs = np.nonzero(mask_HW)
    there_y, there_x = np.nonzero(where_HW)
    turns_R: np.ndarray = np.arctan2(there_y - ys.mean(), there_x - xs.mean()) / (2 * np.pi)
    return turns_R % 1 * BEARINGS


def _smooth(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Cell means, smoothed over neighbouring bearings and distances; 1 where nothing was measured.

    Sums and counts are blurred separately, so empty cells take the mean of their neighbours.
    """
    sums, counts = sums.astype(np.float64), counts.astype(np.float64)
    for axis, rounds in ((0, 3), (1, 1)):
        for _ in range(rounds):
            sums, counts = (_blurred(table, axis) for table in (sums, counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1e-9), 1.0)


def _blurred(table: np.ndarray, axis: int) -> np.ndarray:
    """A 1-2-1 blur, cyclic over bearings (axis 0) or along the distances (axis 1)."""
    if axis == 0:
        return np.roll(table, 1, 0) + 2 * table + np.roll(table, -1, 0)
    padded = np.pad(table, ((0, 0), (1, 1)), mode="edge")
    return padded[:, :-2] + 2 * table + padded[:, 2:]


def _between(table: np.ndarray, bearing_R: np.ndarray, depth_R: np.ndarray) -> np.ndarray:
    """The table interpolated bilinearly at fractional positions; bearings are cyclic."""
    low, near = np.floor(bearing_R).astype(np.int64), np.floor(depth_R).astype(np.int64)
    turn, deep = bearing_R - low, depth_R - near
    far = np.minimum(near + 1, table.shape[1] - 1)
    # Not by whole rows of the table: a large object would take a hundred bytes per pixel.
    first, second = low % BEARINGS, (low + 1) % BEARINGS
    blend = [(1 - turn) * table[first, step] + turn * table[second, step] for step in (near, far)]
    return (1 - deep) * blend[0] + deep * blend[1]
