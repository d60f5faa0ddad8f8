"""The square crop of a diffusion model: it holds the hole, stays inside the image, goes back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.inpaint.square_crop import fill_crop, replace_crop
from pipeline.records import bounding_box

SIDE = 64


def noise(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * 1000 + width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def rectangle(size_HW: tuple[int, int], x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros(size_HW, np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


@st.composite
def holes(draw) -> np.ndarray:
    """A rectangle anywhere in an image with sides of 1 to 300 px: at borders, thin, or all of
    it."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return rectangle((height, width), x0, y0, x1, y1)


@given(holes())
def test_fill_covers_the_whole_hole(hole):
    """A square of one colour, pasted back, gives its colour to the hole and to nothing else."""
    image = np.zeros((*hole.shape, 3), np.uint8)
    crop = fill_crop(bounding_box(hole), hole.shape, SIDE)
    square, hole_SS = crop.cut(image, hole)
    assert square.shape == (SIDE, SIDE, 3)
    assert hole_SS.any()
    top, left = crop.corner
    # The original implementation may crop outside of the image.
    assert 0 <= top <= crop.canvas[0] - SIDE
    assert 0 <= left <= crop.canvas[1] - SIDE
    result = crop.paste_back(np.full_like(square, 200), image, hole)
    assert (result[~hole] == 0).all()
    middle = tuple(np.argwhere(hole).mean(0).round().astype(int))
    assert (result[middle] > 90).all()


@given(holes())
def test_replace_inpaints_the_borders_as_well(hole):
    crop = replace_crop(hole.shape, SIDE)
    square, hole_SS = crop.cut(np.full((*hole.shape, 3), 200, np.uint8), ~hole)
    height, width = crop.scaled
    assert max(height, width) == SIDE
    black = (square == 0).all(2)
    assert black.sum() == SIDE * SIDE - height * width
    assert hole_SS[black].all()


def test_at_native_size_the_square_is_a_plain_crop():
    image, hole = noise(64, 200), rectangle((64, 200), 100, 20, 120, 40)
    square, hole_SS = fill_crop(bounding_box(hole), (64, 200), SIDE).cut(image, hole)
    assert np.array_equal(square, image[:, 78:142])
    assert np.array_equal(hole_SS, hole[:, 78:142])


@pytest.mark.parametrize(
    ("box", "corner"),
    [((0, 0, 9, 9), (0, 0)), ((191, 119, 200, 128), (64, 136)), ((95, 59, 105, 69), (32, 68))],
    ids=["upper left", "lower right", "middle"],
)
def test_the_square_is_centred_on_the_hole_inside_the_image(box, corner):
    assert fill_crop(box, (128, 200), SIDE).corner == corner


def test_a_small_image_is_enlarged_to_the_square():
    crop = fill_crop((0, 0, 5, 5), (32, 48), SIDE)
    assert (crop.scaled, crop.canvas) == ((64, 96), (64, 96))


def test_a_large_hole_shrinks_the_image():
    image, hole = noise(96, 640), rectangle((96, 640), 20, 10, 620, 80)
    crop = fill_crop(bounding_box(hole), (96, 640), SIDE)
    square, hole_SS = crop.cut(image, hole)
    # The 600 px of the hole have become 62.
    assert crop.scaled == (10, 66)
    assert crop.canvas == (64, 66)
    assert (square[10:] == 0).all()
    assert not hole_SS[10:].any()
    assert hole_SS[:10].any(0).sum() >= 62


def test_a_hole_of_one_pixel_survives_any_shrinking():
    hole = rectangle((2000, 2000), 0, 0, 1, 1)
    hole[-1, -1] = True
    _, hole_SS = fill_crop((0, 0, 2000, 2000), (2000, 2000), SIDE).cut(noise(2000, 2000), hole)
    assert hole_SS.sum() == 2
