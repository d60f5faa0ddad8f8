"""The shadow that a part throws on the ground around it, as a factor per pixel.

The ratio of the picture to the picture without the part is the shadow. A part that moves takes it
along as it is; a part of a new outline gets it by direction and distance, for the light stays
where it was when the part is turned.
"""

import cv2
import numpy as np

SHADOW_RANGE = (0.55, 1.05)
"""How much darker or lighter a part may make the ground around it, to count as its shadow."""
BEARINGS = 24
"""Directions from the middle of a part in which its shadow is measured."""


def shade_of(
    image_HW3: np.ndarray,
    clean_HW3: np.ndarray,
    ring_HW: np.ndarray,
    reach_HW: np.ndarray,
    dilation: int,
) -> np.ndarray:
    """How much the object darkens its surroundings, (H, W) float32; 1 beyond its reach.

    Smoothed, because a shadow is, and faded out towards the edge of the change mask so that no
    seam is left there.
    """
    weight_HW = ring_HW.astype(np.float32)
    sigma = max(1.0, dilation / 4)
    total_HW = cv2.GaussianBlur(weight_HW, (0, 0), sigma) + 1e-6
    ratio_HW = _ratio(image_HW3, clean_HW3)
    smooth_HW = cv2.GaussianBlur(ratio_HW * weight_HW, (0, 0), sigma) / total_HW
    shade_HW = 1 + (np.clip(smooth_HW, *SHADOW_RANGE) - 1) * _fade(reach_HW, dilation)
    return np.where(reach_HW, shade_HW, 1).astype(np.float32)


def shade_around(
    image_HW3: np.ndarray,
    clean_HW3: np.ndarray,
    old_HW: np.ndarray,
    new_HW: np.ndarray,
    reach: int,
) -> np.ndarray:
    """The shadow of the outline `old_HW` laid around the outline `new_HW`, (H, W) float32.

    Both are kept as bearing from the part's middle and distance from its outline, in pixels.
    """
    shade_HW = np.ones(old_HW.shape, np.float32)
    distance_HW = _distance(old_HW)
    ring_HW = (distance_HW > 0) & (distance_HW <= reach)
    if reach < 1 or not ring_HW.any():
        return shade_HW
    steps_R = np.ceil(distance_HW[ring_HW]).astype(np.int64) - 1
    cells_R = np.floor(_bearings(old_HW, ring_HW)).astype(np.int64) % BEARINGS * reach + steps_R
    ratio_R = np.clip(_ratio(image_HW3[ring_HW], clean_HW3[ring_HW]), *SHADOW_RANGE)
    sums = np.bincount(cells_R, ratio_R, BEARINGS * reach).reshape(BEARINGS, reach)
    counts = np.bincount(cells_R, minlength=BEARINGS * reach).reshape(BEARINGS, reach)
    table = _smooth(sums, counts)
    distance_HW = _distance(new_HW)
    near_HW = distance_HW <= reach  # under the part's own soft edge it is as dark as beside it
    depth_R = np.clip(distance_HW[near_HW] - 0.5, 0, reach - 1)
    value_R = _between(table, _bearings(new_HW, near_HW) - 0.5, depth_R)
    fade_R = np.clip((reach + 0.5 - distance_HW[near_HW]) / reach, 0, 1)
    shade_HW[near_HW] = 1 + (value_R - 1) * fade_R
    return shade_HW


def _ratio(image_HW3: np.ndarray, clean_HW3: np.ndarray) -> np.ndarray:
    """How bright one picture is against another; any leading axes."""
    bright, clean = (
        (picture[..., 0] + picture[..., 1] + picture[..., 2]) / np.float32(3) + 4
        for picture in (image_HW3, clean_HW3)
    )
    return (bright / clean).astype(np.float32)


def _fade(reach_HW: np.ndarray, dilation: int) -> np.ndarray:
    edge_HW = cv2.distanceTransform(reach_HW.astype(np.uint8), cv2.DIST_L2, 3)
    return np.clip((edge_HW - 0.5) / max(dilation, 1), 0, 1)


def _bearings(mask_HW: np.ndarray, where_HW: np.ndarray) -> np.ndarray:
    """The direction of a region's pixels from the mask's middle, 0 to BEARINGS."""
    ys, xs = np.nonzero(mask_HW)
    there_y, there_x = np.nonzero(where_HW)
    turns_R: np.ndarray = np.arctan2(there_y - ys.mean(), there_x - xs.mean()) / (2 * np.pi)
    return turns_R % 1 * BEARINGS


def _distance(mask_HW: np.ndarray) -> np.ndarray:
    """How far every pixel is from the mask, 0 inside."""
    return cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, 5)


def _smooth(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means over neighbouring bearings and distances, as far as it takes to have any; else 1."""
    sums, counts = sums.astype(np.float64), counts.astype(np.float64)
    for axis, rounds in ((0, 3), (1, 1)):
        for _ in range(rounds):
            sums, counts = (_blurred(table, axis) for table in (sums, counts))
    return np.where(counts > 0, sums / np.maximum(counts, 1e-9), 1.0)


def _blurred(table: np.ndarray, axis: int) -> np.ndarray:
    """A 1-2-1 blur, around the circle of bearings (axis 0) or along the distances (axis 1)."""
    if axis == 0:
        return np.roll(table, 1, 0) + 2 * table + np.roll(table, -1, 0)
    padded = np.pad(table, ((0, 0), (1, 1)), mode="edge")
    return padded[:, :-2] + 2 * table + padded[:, 2:]


def _between(table: np.ndarray, bearing_R: np.ndarray, depth_R: np.ndarray) -> np.ndarray:
    """The table at fractional places, bearings going round."""
    low, near = np.floor(bearing_R).astype(np.int64), np.floor(depth_R).astype(np.int64)
    turn, deep = bearing_R - low, depth_R - near
    far = np.minimum(near + 1, table.shape[1] - 1)
    first, second = table[low % BEARINGS], table[(low + 1) % BEARINGS]
    rows = np.arange(len(low))
    blend = [(1 - turn) * first[rows, step] + turn * second[rows, step] for step in (near, far)]
    return (1 - deep) * blend[0] + deep * blend[1]
