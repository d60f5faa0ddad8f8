"""Smooth shades run into each other in a hole; where there is texture it is left to others."""

import cv2
import numpy as np

from pipeline.models.inpaint.patch_match import PatchMatchInpainter
from pipeline.models.inpaint.smooth import smooth_fill

HOLE_HW = np.zeros((96, 96), np.bool_)
HOLE_HW[30:66, 30:66] = True
NOTHING_HW = np.zeros_like(HOLE_HW)


def moulded(grain: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Plastic in light that a polynomial does not follow, and the same with a part in the hole."""
    y, x = np.mgrid[:96, :96] / 96
    shade_HW = 205 + 12 * np.sin(5 * x + 2 * y) + 8 * np.cos(7 * y)
    noise_HW = np.random.default_rng(0).normal(0, grain, shade_HW.shape)
    truth_HW3 = np.repeat((shade_HW + noise_HW)[..., None], 3, 2)
    image_HW3 = truth_HW3.copy()
    image_HW3[HOLE_HW] = (240, 130, 10)
    return truth_HW3, image_HW3.round().astype(np.uint8)


def filled(image_HW3: np.ndarray, avoid_HW: np.ndarray = NOTHING_HW) -> np.ndarray | None:
    return smooth_fill(image_HW3, HOLE_HW, avoid_HW, NOTHING_HW, px=0.4)


def test_shades_run_into_each_other_without_a_step_along_the_rim():
    truth_HW3, image_HW3 = moulded()
    result_HW3 = filled(image_HW3)
    assert result_HW3 is not None
    assert np.array_equal(result_HW3[~HOLE_HW], image_HW3[~HOLE_HW])
    rim_HW = HOLE_HW & (cv2.erode(HOLE_HW.astype(np.uint8), np.ones((5, 5))) == 0)
    assert np.abs((result_HW3 - truth_HW3)[rim_HW].mean()) < 1
    assert np.abs((result_HW3 - truth_HW3)[rim_HW]).max() < 6
    # As grainy as the plastic, and no more.
    grain_hw = (result_HW3 - cv2.GaussianBlur(result_HW3.astype(float), (0, 0), 2))[40:56, 40:56]
    assert 0.2 < grain_hw.std() < 1.0


def test_a_wall_that_touches_the_hole_lends_no_shade():
    truth_HW3, image_HW3 = moulded()
    # Darker than the plastic by far, along one side of the hole.
    image_HW3[:, 66:72] = 90
    result_HW3 = filled(image_HW3)
    assert result_HW3 is not None
    assert np.abs((result_HW3 - truth_HW3)[40:56, 60:65].mean()) < 10


def test_texture_and_what_is_hardly_seen_are_left_to_others():
    _, image_HW3 = moulded(grain=6)
    assert filled(image_HW3) is None
    _, image_HW3 = moulded()
    beside_HW = ~HOLE_HW
    beside_HW[:, :30] = False
    assert filled(image_HW3, beside_HW) is None
    assert filled(image_HW3, ~HOLE_HW) is None


def test_patchmatch_does_not_search_there():
    truth_HW3, image_HW3 = moulded()
    result_HW3 = PatchMatchInpainter()(image_HW3, HOLE_HW)
    assert np.abs((result_HW3 - truth_HW3)[HOLE_HW]).mean() < 8
    assert np.array_equal(result_HW3[~HOLE_HW], image_HW3[~HOLE_HW])
