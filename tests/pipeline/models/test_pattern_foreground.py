"""On a board with holes the foreground ends at the product, and its legs are parts."""

import cv2
import numpy as np
import pytest
from perforated import Mounted, board, mounted

from pipeline.imaging.masks import dilated
from pipeline.models.hierarchy import product_of
from pipeline.models.limbs import limbs_of, with_limbs
from pipeline.models.pattern_foreground import PatternForeground, without_pattern
from pipeline.models.settings import ProposalSettings
from pipeline.records import ForegroundMask


def iou(one_HW: np.ndarray, other_HW: np.ndarray) -> float:
    return np.count_nonzero(one_HW & other_HW) / np.count_nonzero(one_HW | other_HW)


def with_dark(scene: Mounted) -> np.ndarray:
    """What a network sees: the product, and whatever dark touches it."""
    dark_HW = (scene.bare_HW3.max(2) < 80) & dilated(scene.product_HW, 14)
    grown = cv2.morphologyEx(
        (scene.product_HW | dark_HW).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)
    )
    return grown > 0


@pytest.fixture(scope="module")
def scene() -> Mounted:
    return mounted()


@pytest.fixture(scope="module")
def found(scene) -> ForegroundMask:
    seen_HW = with_dark(scene)
    assert iou(seen_HW, scene.product_HW) < 0.8
    return PatternForeground(lambda image_HW3: ForegroundMask(seen_HW))(scene.image_HW3)


def test_holes_and_stripes_that_touch_the_product_are_no_part_of_it(scene, found):
    assert iou(found.mask_HW, scene.product_HW) > 0.95
    assert found.pattern_HW is not None
    assert not (found.pattern_HW & found.mask_HW).any()


def test_a_glint_on_the_far_rim_of_a_hole_does_not_make_the_hole_product(scene):
    image_HW3, product_HW = scene.image_HW3.copy(), scene.product_HW.copy()
    # The side goes through the holes of a column now.
    product_HW[34:91, 54:119] = True
    image_HW3[product_HW & ~scene.product_HW] = (20, 18, 22)
    image_HW3[61:64, 122:125] = (220, 170, 140)
    hole_HW = np.zeros_like(product_HW)
    hole_HW[58:68, 120:126] = True
    seen = ForegroundMask(product_HW | hole_HW)
    found = PatternForeground(lambda image_HW3: seen)(image_HW3)
    assert iou(found.mask_HW, product_HW) > 0.95
    assert np.count_nonzero(found.mask_HW & hole_HW) <= 5


def test_a_corner_that_the_product_cuts_off_is_no_hole_in_it():
    image_HW3, (y, x) = board(), np.mgrid[:160, :160]
    across_HW = (x + y > 8) & (x + y < 90)
    image_HW3[across_HW] = (70, 90, 160)
    found = PatternForeground(lambda image_HW3: ForegroundMask(across_HW))(image_HW3)
    assert found.pattern_HW is not None
    assert iou(found.mask_HW, across_HW) > 0.95
    assert not found.mask_HW[:4, :4].any()


def test_a_background_that_does_not_repeat_leaves_the_mask_alone(scene):
    image_HW3 = np.full_like(scene.image_HW3, 140)
    image_HW3[scene.product_HW] = 30
    given = ForegroundMask(scene.product_HW)
    assert PatternForeground(lambda image_HW3: given)(image_HW3) is given


def test_a_mask_of_a_hole_is_no_proposal(scene, found):
    hole_HW, part_HW = np.zeros_like(scene.product_HW), np.zeros_like(scene.product_HW)
    hole_HW[86:96, 4:14] = True
    part_HW[40:60, 50:80] = True
    masks_NHW = np.stack([hole_HW, part_HW, found.mask_HW])
    kept_NHW, scores_N = without_pattern(masks_NHW, np.float32([0.9, 0.8, 0.7]), found)
    # The hole is background, and the product is known better than by any mask.
    assert scores_N.tolist() == [np.float32(0.8)]
    assert kept_NHW[0].sum() < part_HW.sum()


def test_legs_are_whole_parts_and_pieces_of_them_go(scene, found):
    limbs_LHW = limbs_of(found.mask_HW)
    assert len(limbs_LHW) == 3
    for x, limb_HW in zip((62, 80, 98), limbs_LHW, strict=True):
        leg_HW = np.zeros_like(limb_HW)
        leg_HW[91:127, x - 3 : x + 4] = True
        assert iou(limb_HW, leg_HW) > 0.8
    half_HW = np.zeros_like(scene.product_HW)
    half_HW[95:110, 60:65] = True
    body_HW = found.mask_HW & ~limbs_LHW.any(0)
    masks_NHW, _ = with_limbs(np.stack([half_HW, body_HW]), np.float32([0.9, 0.8]), found.mask_HW)
    assert [mask_HW.tobytes() for mask_HW in masks_NHW] == [
        mask_HW.tobytes() for mask_HW in (*limbs_LHW, body_HW)
    ]


def test_the_product_keeps_the_end_of_a_leg_that_seems_apart(found):
    apart_HW = found.mask_HW.copy()
    apart_HW[112:115] = False
    foreground = ForegroundMask(apart_HW, pattern_HW=found.pattern_HW)
    none_NHW = np.zeros((0, *apart_HW.shape), np.bool_)
    product = product_of(none_NHW, foreground, ProposalSettings())
    assert product is not None
    assert product[0].tobytes() == apart_HW.tobytes()
