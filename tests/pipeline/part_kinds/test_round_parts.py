"""Circles around round parts: where a mask ends at an inner ring, or takes background along."""

import cv2
import numpy as np
import pytest

from pipeline.part_kinds.round_parts import round_part

# At 256 pixels: where a bottle lies, its radius, and between which radii bottles are.
X, Y, RADIUS, RADII = 120, 130, 25.0, (23.0, 27.0)


def disc(size: int, x: float, y: float, radius: float) -> np.ndarray:
    ys, xs = np.mgrid[:size, :size] * (256 / size)
    inside: np.ndarray = (xs - x) ** 2 + (ys - y) ** 2 <= radius**2
    return inside


def ground(size: int) -> np.ndarray:
    """Grey with the noise of a camera."""
    noise = np.random.default_rng(4).normal(0, 4, (size, size, 3))
    return 140 + noise


def photograph(size: int = 256) -> np.ndarray:
    """A bottle from above: a dark outer ring, a bright one, darker glass, the dark inside."""
    image = ground(size)
    for radius, colour in ((RADIUS, 85), (21, 190), (19.5, 95), (12, 35)):
        inside = disc(size, X, Y, radius)
        image[inside] += colour - 140
    image = cv2.GaussianBlur(image, (0, 0), 0.7 * size / 256)
    return np.clip(image, 0, 255).astype(np.uint8)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def found(image: np.ndarray, mask: np.ndarray):
    factor = len(mask) / 256
    return round_part(image, mask, (RADII[0] * factor, RADII[1] * factor))


@pytest.mark.parametrize("size", [256, 512, 1024])
def test_a_mask_that_ends_at_an_inner_ring_is_completed(size: int) -> None:
    inner = disc(size, X, Y, 21)
    part = found(photograph(size), inner)
    assert part.lacks
    assert part.is_cut
    assert part.is_better
    assert iou(part.circle_HW, disc(size, X, Y, RADIUS)) > 0.96


def test_a_mask_that_lacks_one_side_is_completed() -> None:
    cut = disc(256, X, Y, RADIUS) & disc(256, X - 6, Y, 23)
    part = found(photograph(), cut)
    assert part.is_better
    assert iou(part.circle_HW, disc(256, X, Y, RADIUS)) > 0.96


def test_background_that_a_mask_takes_along_is_left_out() -> None:
    with_lobe = disc(256, X, Y, RADIUS) | disc(256, X + 28, Y, 8)
    part = found(photograph(), with_lobe)
    assert part.adds
    assert not part.lacks
    assert part.is_better
    assert iou(part.circle_HW, disc(256, X, Y, RADIUS)) > 0.96


def test_nothing_is_wrong_with_a_whole_mask() -> None:
    part = found(photograph(), disc(256, X, Y, RADIUS))
    assert part.seen > 0.8
    assert part.fits
    assert not any((part.lacks, part.adds, part.is_better, part.is_cut))


@pytest.mark.parametrize("along", [0.7, 0.8, 0.9, 1.1, 1.25])
def test_a_part_of_another_shape_stays_as_it_is(along: float) -> None:
    """A nut among round ones: its own outline is right, whatever circle comes nearest to it."""
    ys, xs = np.mgrid[:256, :256]
    nut = np.abs((xs - X) / along) ** 2.5 + np.abs(ys - Y) ** 2.5 <= RADIUS**2.5
    image = ground(256)
    image[nut] = (120, 70, 40)
    image = np.clip(cv2.GaussianBlur(image, (0, 0), 0.7), 0, 255).astype(np.uint8)
    part = found(image, nut)
    assert part is None or not (part.is_better or part.is_cut)


def test_where_no_edge_is_seen_nothing_is_completed() -> None:
    image = np.clip(ground(256), 0, 255).astype(np.uint8)
    part = found(image, disc(256, X, Y, 21))
    assert not any((part.is_better, part.is_cut))


def test_a_circle_beyond_the_image_is_none() -> None:
    half = disc(256, 10, Y, RADIUS)
    assert found(photograph(), half) is None
