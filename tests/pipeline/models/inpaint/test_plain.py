"""A plain surface is continued with its own colour and grain; anything else is left to others."""

import numpy as np
import pytest

from pipeline.models.inpaint.patch_match import PatchMatchInpainter
from pipeline.models.inpaint.plain import plain_fill

HOLE_HW = np.zeros((96, 128), np.bool_)
HOLE_HW[20:70, 30:100] = True
NOTHING_HW = np.zeros_like(HOLE_HW)


def backdrop(grain: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """A backdrop with uneven light, without and with grain; in the hole is a part."""
    y, x = np.mgrid[:96, :128] / 128
    smooth_HW3 = np.stack([180 - 40 * x - 30 * y**2, 170 - 40 * x, 90 + 20 * x * y], 2)
    image_HW3 = smooth_HW3 + np.random.default_rng(0).normal(0, grain, smooth_HW3.shape)
    image_HW3[HOLE_HW] = 0
    return smooth_HW3, image_HW3.round().astype(np.uint8)


def test_a_backdrop_goes_on_with_its_light_and_its_grain():
    smooth_HW3, image_HW3 = backdrop()
    filled_HW3 = plain_fill(image_HW3, HOLE_HW, NOTHING_HW)
    assert filled_HW3 is not None
    off_N3 = filled_HW3[HOLE_HW] - smooth_HW3[HOLE_HW]
    assert np.abs(off_N3.mean(0)).max() < 0.5
    assert 1.5 < off_N3.std() < 2.5
    assert np.array_equal(filled_HW3[~HOLE_HW], image_HW3[~HOLE_HW])


def test_the_depth_of_a_large_hole_has_grain_as_well():
    # From its middle, most shifts lead to other places of the hole.
    hole_HW = np.zeros_like(HOLE_HW)
    hole_HW[8:88, 8:100] = True
    smooth_HW3, image_HW3 = backdrop()
    filled_HW3 = plain_fill(image_HW3, hole_HW, NOTHING_HW)
    assert filled_HW3 is not None
    off_hw3 = (filled_HW3 - smooth_HW3)[40:56, 46:62]
    assert 1.5 < off_hw3.std() < 2.5


def test_patchmatch_does_not_search_there():
    _, image_HW3 = backdrop()
    expected_HW3 = plain_fill(image_HW3, HOLE_HW, NOTHING_HW)
    assert np.array_equal(PatchMatchInpainter()(image_HW3, HOLE_HW), expected_HW3)


def test_a_fleck_is_not_copied_again_and_again():
    smooth_HW3, image_HW3 = backdrop()
    image_HW3[44:47, 14:17] = 255
    filled_HW3 = plain_fill(image_HW3, HOLE_HW, NOTHING_HW)
    assert np.abs(filled_HW3[HOLE_HW] - smooth_HW3[HOLE_HW]).max() < 12


def test_what_must_not_be_copied_does_not_count():
    smooth_HW3, image_HW3 = backdrop()
    part_HW = np.zeros_like(HOLE_HW)
    part_HW[72:94, 10:60] = True
    image_HW3[part_HW] = 255
    assert plain_fill(image_HW3, HOLE_HW, NOTHING_HW) is None
    filled_HW3 = plain_fill(image_HW3, HOLE_HW, part_HW)
    assert np.abs(filled_HW3[HOLE_HW] - smooth_HW3[HOLE_HW]).max() < 12


@pytest.mark.parametrize("known", [0, 4])
def test_a_surface_of_which_too_little_is_known_is_not_plain(known):
    _, image_HW3 = backdrop()
    unseen_HW = ~HOLE_HW
    unseen_HW[:known] = False
    assert plain_fill(image_HW3, HOLE_HW, unseen_HW) is None
