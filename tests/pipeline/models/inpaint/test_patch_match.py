"""PatchMatch: what it may copy, and that a fill depends on image and hole alone."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from pipeline.models.inpaint.patch_match import PatchMatchInpainter

GREEN, RED = (30, 200, 40), (210, 20, 20)


@pytest.fixture(scope="module")
def fill():
    return PatchMatchInpainter()


def cloth(size: int = 128, seed: int = 0) -> np.ndarray:
    """A grey weave with sensor noise."""
    y, x = np.mgrid[:size, :size]
    grey_HW = 120 + 25 * np.sin(x * 0.9) * np.sin(y * 0.9)
    noise_HW = np.random.default_rng(seed).normal(0, 3, (size, size))
    return np.repeat((grey_HW + noise_HW)[..., None], 3, 2).clip(0, 255).astype(np.uint8)


def disc(centre: tuple[int, int], radius: int, size: int = 128) -> np.ndarray:
    mask_HW = np.zeros((size, size), np.uint8)
    return cv2.circle(mask_HW, centre, radius, 1, -1).astype(np.bool_)


def far_from_grey(image_HW3: np.ndarray, hole_HW: np.ndarray) -> int:
    """Pixels of a hole that no grey weave explains."""
    spread_HW = image_HW3.max(2).astype(int) - image_HW3.min(2)
    return int(np.count_nonzero((spread_HW > 20) & hole_HW))


def test_avoided_pixels_are_never_copied(fill):
    image_HW3 = cloth()
    # Halo of the removed part, and a second part that touches the hole.
    part_HW, halo_HW, other_HW = disc((60, 60), 14), disc((60, 60), 17), disc((88, 60), 13)
    image_HW3[halo_HW], image_HW3[other_HW], image_HW3[part_HW] = RED, GREEN, (0, 0, 255)
    hole_HW = part_HW & ~other_HW
    avoid_HW = (halo_HW | other_HW) & ~hole_HW
    assert far_from_grey(fill(image_HW3, hole_HW, avoid_HW), hole_HW) == 0
    # Without the mask they are: that is what it is for.
    assert far_from_grey(fill(image_HW3, hole_HW), hole_HW) > 0


def test_pixels_outside_the_hole_keep_their_bytes(fill):
    image_HW3, hole_HW = cloth(), disc((40, 70), 12)
    filled_HW3 = fill(image_HW3, hole_HW, disc((100, 20), 15))
    assert np.array_equal(filled_HW3[~hole_HW], image_HW3[~hole_HW])
    assert not np.array_equal(filled_HW3[hole_HW], image_HW3[hole_HW])


def test_a_weave_is_continued_with_its_own_contrast(fill):
    image_HW3, hole_HW = cloth(), disc((64, 64), 16)
    damaged_HW3 = np.where(hole_HW[..., None], 0, image_HW3).astype(np.uint8)
    filled_HW3 = fill(damaged_HW3, hole_HW)
    assert filled_HW3[hole_HW].std() == pytest.approx(image_HW3[hole_HW].std(), rel=0.1)
    error = np.abs(filled_HW3.astype(int) - image_HW3)[hole_HW].mean()
    assert error < 12


def test_where_everything_is_avoided_the_surroundings_are_used(fill):
    image_HW3, hole_HW = cloth(), disc((64, 64), 10)
    filled_HW3 = fill(image_HW3, hole_HW, ~hole_HW)
    assert filled_HW3[hole_HW].mean() == pytest.approx(image_HW3[~hole_HW].mean(), abs=15)


def test_the_window_grows_until_there_is_enough_to_copy(fill):
    image_HW3 = cloth(512)
    hole_HW = disc((100, 100), 30, 512)
    image_HW3[hole_HW] = RED
    # All but a strip at the far side of the image.
    avoid_HW = ~hole_HW
    avoid_HW[:, 480:] = False
    assert far_from_grey(fill(image_HW3, hole_HW, avoid_HW), hole_HW) == 0


def test_the_same_hole_gives_the_same_fill_in_any_thread_and_order(fill):
    image_HW3 = cloth()
    holes = [disc((30 + 8 * i, 40 + 5 * i), 8 + i) for i in range(6)]
    alone = [fill(image_HW3, hole_HW) for hole_HW in holes]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda hole_HW: fill(image_HW3, hole_HW), holes[::-1]))
    for one_HW3, other_HW3 in zip(alone, together[::-1], strict=True):
        assert np.array_equal(one_HW3, other_HW3)
    assert np.array_equal(PatchMatchInpainter()(image_HW3, holes[0]), alone[0])


def test_an_empty_hole_changes_nothing(fill):
    image_HW3 = cloth()
    assert np.array_equal(fill(image_HW3, np.zeros((128, 128), np.bool_)), image_HW3)
