"""Whole parts, pieces, piles and the product, on masks drawn by hand."""

import cv2
import numpy as np
import pytest

from pipeline.models.hierarchy import _convexity, in_order, parents_of, piles, repeated
from pipeline.models.settings import ProposalSettings
from pipeline.records import WHOLE_PART, WHOLE_PRODUCT, ForegroundMask


def boxes(*sides: tuple[int, int, int, int]) -> np.ndarray:
    """One mask per box (x0 y0 x1 y1) on 40 x 60 pixels."""
    masks_NHW = np.zeros((len(sides), 40, 60), np.bool_)
    for mask_HW, (x0, y0, x1, y1) in zip(masks_NHW, sides, strict=True):
        mask_HW[y0:y1, x0:x1] = True
    return masks_NHW


def painted(*masks_HW: np.ndarray) -> np.ndarray:
    """An image in which each mask has a grey of its own, with a little noise."""
    image_HW = np.random.default_rng(0).normal(100, 2, (40, 60))
    for number, mask_HW in enumerate(masks_HW, 1):
        image_HW[mask_HW] += 30 * number
    return np.repeat(image_HW.clip(0, 255).astype(np.uint8)[..., None], 3, 2)


LEFT, RIGHT, CAP = (5, 10, 20, 30), (20, 10, 35, 30), (7, 12, 12, 18)


def test_two_parts_and_their_union_leave_the_two_parts():
    masks = boxes((5, 10, 35, 30), LEFT, RIGHT)
    assert piles(masks).tolist() == [True, False, False]


def test_a_part_with_a_cap_on_it_is_no_pile():
    assert not piles(boxes(LEFT, CAP)).any()


def test_a_dented_union_is_a_pile_though_only_one_of_its_parts_was_found():
    pair = boxes((5, 5, 20, 20))[0] | boxes((20, 20, 35, 35))[0]
    assert piles(np.stack([pair, boxes((5, 5, 20, 20))[0]])).tolist() == [True, False]


def test_a_slightly_smaller_outline_is_the_same_part_and_the_better_one_stays():
    assert repeated(boxes(LEFT, (6, 11, 20, 30), CAP)).tolist() == [False, True, False]


def test_a_piece_names_the_part_that_it_lies_in():
    masks = boxes(CAP, RIGHT, LEFT)
    parents = parents_of(masks, masks.any(0))
    assert parents.tolist() == [2, WHOLE_PART, WHOLE_PART]


def test_wholes_come_first_then_pieces_and_the_product_last():
    product = boxes((2, 2, 50, 36))[0]
    scores = np.array([0.9, 0.8, 0.7], np.float32)
    parts = boxes(CAP, RIGHT, LEFT)
    found = in_order(
        parts, scores, ForegroundMask(product), (), ProposalSettings(), painted(*parts[1:])
    )
    # Parts on a product are whole parts; the cap's parent is named at its new place.
    assert found.parent_N.tolist() == [WHOLE_PART, WHOLE_PART, 1, WHOLE_PRODUCT]
    np.testing.assert_allclose(found.scores_N[:3], [0.8, 0.7, 0.9])
    np.testing.assert_array_equal(found.masks_NHW[3], product)
    assert found.whole_N.sum() == 2
    assert found.product_N.sum() == 1


def test_a_lone_product_stays_as_a_proposal_and_the_whole_frame_does_not():
    nothing = np.zeros((0, 40, 60), np.bool_), np.zeros(0, np.float32)
    nut = boxes(LEFT)[0]
    found = in_order(*nothing, ForegroundMask(nut), (), ProposalSettings(), painted(nut))
    assert found.parent_N.tolist() == [WHOLE_PRODUCT]
    frame = ForegroundMask(np.ones((40, 60), np.bool_), fallback="whole frame")
    assert len(in_order(*nothing, frame, (), ProposalSettings(), painted())) == 0


def test_one_of_several_parts_is_no_product_though_the_foreground_holds_it_alone():
    found = in_order(
        boxes(LEFT, (40, 10, 55, 30)), np.ones(2, np.float32), ForegroundMask(boxes(LEFT)[0]), (),
        ProposalSettings(), painted(),
    )  # fmt: skip
    assert found.whole_N.all()


def test_a_patch_of_a_products_texture_is_a_piece_and_no_part():
    """SAM outlines shading on a hazelnut; nothing is there that could be missing or exchanged."""
    product = boxes((2, 2, 50, 36))[0]
    patch, part = boxes((8, 10, 22, 26), (30, 10, 44, 26))
    found = in_order(
        np.stack([patch, part]), np.array([0.9, 0.8], np.float32), ForegroundMask(product), (),
        ProposalSettings(), painted(product, part),
    )  # fmt: skip
    assert found.parent_N.tolist() == [WHOLE_PART, 2, WHOLE_PRODUCT]
    np.testing.assert_array_equal(found.masks_NHW[0], part)


@pytest.mark.parametrize("seed", range(20))
def test_the_ends_of_its_rows_tell_how_convex_a_mask_is(seed):
    """The long way: the hull of all pixels."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.random((40, 60)).astype(np.float32), (0, 0), rng.uniform(0.5, 5))
    mask = noise > np.quantile(noise, rng.uniform(0.4, 0.99))
    points = cv2.findNonZero(mask.astype(np.uint8))
    hull = cv2.convexHull(points)
    filled = len(points) / (cv2.contourArea(hull) + cv2.arcLength(hull, True) / 2 + 1)
    assert _convexity(mask) == filled
    assert _convexity(np.zeros_like(mask)) == 0
