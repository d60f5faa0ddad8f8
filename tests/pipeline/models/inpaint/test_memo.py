"""The memo of inpainted holes: the same pixels, one call per image and hole."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.models.inpaint.memo import MemoInpainter

TELEA = OpenCvInpainter("telea")


class Counted:
    """Telea that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(
        self, image_HW3: np.ndarray, hole_HW: np.ndarray, avoid_HW: np.ndarray | None = None
    ) -> np.ndarray:
        self.calls += 1
        return TELEA(image_HW3, hole_HW)


@pytest.fixture
def image_HW3():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def hole(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((40, 56), np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_the_result_is_the_inpainters_inside_the_hole_and_the_image_outside(seed):
    rng = np.random.default_rng(seed)
    image_HW3 = rng.integers(0, 256, (40, 56, 3), np.uint8)
    hole_HW = (rng.random((40, 56)) < 0.2) & hole(5, 5, 30, 30)
    memo = MemoInpainter(TELEA, image_HW3)
    expected_HW3 = np.where(hole_HW[..., None], TELEA(image_HW3, hole_HW), image_HW3)
    for _ in range(2):
        np.testing.assert_array_equal(memo(hole_HW)[0], expected_HW3)


def test_each_hole_is_inpainted_once(image_HW3):
    inpaint = Counted()
    memo = MemoInpainter(inpaint, image_HW3)
    for box in ((4, 4, 12, 12), (4, 4, 12, 12), (5, 4, 13, 12), (4, 4, 20, 8), (4, 4, 12, 12)):
        memo(hole(*box))
    assert inpaint.calls == 3


def test_different_holes_with_one_box_are_distinguished(image_HW3):
    ring_HW = hole(4, 4, 20, 20) & ~hole(8, 8, 12, 12)
    inpaint = Counted()
    memo = MemoInpainter(inpaint, image_HW3)
    memo(hole(4, 4, 20, 20))
    found_HW3, _ = memo(ring_HW)
    assert inpaint.calls == 2
    np.testing.assert_array_equal(found_HW3[8:12, 8:12], image_HW3[8:12, 8:12])


def test_writing_to_a_result_does_not_change_the_memo(image_HW3):
    memo = MemoInpainter(TELEA, image_HW3)
    first_HW3, _ = memo(hole(4, 4, 12, 12))
    kept_HW3 = first_HW3.copy()
    first_HW3[:] = 0
    np.testing.assert_array_equal(memo(hole(4, 4, 12, 12))[0], kept_HW3)


def test_pieces_far_apart_are_filled_one_by_one_and_never_from_each_other():
    image_HW3 = np.random.default_rng(3).integers(0, 255, (400, 400, 3), np.uint8)
    hole_HW = np.zeros((400, 400), np.bool_)
    # Two close pieces at one corner, one at the other.
    for at in (np.s_[10:30, 10:30], np.s_[40:50, 10:30], np.s_[360:380, 360:380]):
        hole_HW[at] = True
    asked = []

    def inpaint(image_HW3, piece_HW, avoid_HW=None):
        asked.append((piece_HW, avoid_HW))
        return np.full_like(image_HW3, len(asked))

    filled_HW3, _ = MemoInpainter(inpaint, image_HW3)(hole_HW)
    assert [int(piece_HW.sum()) for piece_HW, _ in asked] == [600, 400]
    for piece_HW, avoid_HW in asked:
        assert (avoid_HW == (hole_HW & ~piece_HW)).all()
    assert (filled_HW3[:60][hole_HW[:60]] == 1).all()
    assert (filled_HW3[60:][hole_HW[60:]] == 2).all()
    assert (filled_HW3[~hole_HW] == image_HW3[~hole_HW]).all()
