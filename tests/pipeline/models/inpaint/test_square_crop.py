"""What a diffusion model sees of an image: the whole hole, inside the image, and back again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.inpaint.square_crop import fill_frame, replace_frame
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
    """A rectangle anywhere in an image of 1 to 300 px a side: at borders, thin, or all of it."""
    height, width = draw(st.integers(1, 300)), draw(st.integers(1, 300))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return rectangle((height, width), x0, y0, x1, y1)


@given(holes())
def test_fill_sees_the_whole_hole_wherever_it_lies(hole):
    """Painted over in the square and put back, every pixel of the hole has the paint's colour."""
    image = np.zeros((*hole.shape, 3), np.uint8)
    frame = fill_frame(bounding_box(hole), hole.shape, SIDE)
    square, seen = frame.see(image, hole)
    assert square.shape == (SIDE, SIDE, 3)
    assert seen.any()
    top, left = frame.corner
    assert 0 <= top <= frame.canvas[0] - SIDE  # the defect of the original: outside the image
    assert 0 <= left <= frame.canvas[1] - SIDE
    result = frame.put_back(np.full_like(square, 200), image, hole)
    assert (result[~hole] == 0).all()
    middle = tuple(np.argwhere(hole).mean(0).round().astype(int))
    assert (result[middle] > 90).all()


@given(holes())
def test_replace_sees_the_whole_image_and_paints_beside_it_too(hole):
    frame = replace_frame(hole.shape, SIDE)
    square, seen = frame.see(np.full((*hole.shape, 3), 200, np.uint8), ~hole)
    height, width = frame.scaled
    assert max(height, width) == SIDE
    black = (square == 0).all(2)
    assert black.sum() == SIDE * SIDE - height * width
    assert seen[black].all()


def test_at_native_size_the_square_is_a_plain_crop():
    image, hole = noise(64, 200), rectangle((64, 200), 100, 20, 120, 40)
    square, seen = fill_frame(bounding_box(hole), (64, 200), SIDE).see(image, hole)
    assert np.array_equal(square, image[:, 78:142])
    assert np.array_equal(seen, hole[:, 78:142])


@pytest.mark.parametrize(
    ("box", "corner"),
    [((0, 0, 9, 9), (0, 0)), ((191, 119, 200, 128), (64, 136)), ((95, 59, 105, 69), (32, 68))],
    ids=["upper left", "lower right", "middle"],
)
def test_the_square_is_centred_on_the_hole_and_held_inside(box, corner):
    assert fill_frame(box, (128, 200), SIDE).corner == corner


def test_a_small_image_is_enlarged_until_its_shorter_side_fills_the_square():
    frame = fill_frame((0, 0, 5, 5), (32, 48), SIDE)
    assert (frame.scaled, frame.canvas) == ((64, 96), (64, 96))


def test_a_hole_larger_than_the_square_shrinks_the_image_and_pads_it_with_black():
    image, hole = noise(96, 640), rectangle((96, 640), 20, 10, 620, 80)
    frame = fill_frame(bounding_box(hole), (96, 640), SIDE)
    square, seen = frame.see(image, hole)
    assert frame.scaled == (10, 66)  # the hole's 600 px have become 62
    assert frame.canvas == (64, 66)
    assert (square[10:] == 0).all()
    assert not seen[10:].any()
    assert seen[:10].any(0).sum() >= 62


def test_a_hole_of_one_pixel_survives_any_shrinking():
    hole = rectangle((2000, 2000), 0, 0, 1, 1)
    hole[-1, -1] = True
    _, seen = fill_frame((0, 0, 2000, 2000), (2000, 2000), SIDE).see(noise(2000, 2000), hole)
    assert seen.sum() == 2
