"""Masks that match a component of the foreground take its outline; parts that touch do not."""

import numpy as np

from pipeline.models.component_outlines import outlined_by_components


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((60, 60), np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def test_a_part_without_its_legs_gets_them_back() -> None:
    body, legs = box(10, 10, 40, 30), box(14, 30, 16, 45) | box(30, 30, 32, 45)
    found = outlined_by_components(body[None], body | legs)
    assert np.array_equal(found[0], body | legs)


def test_two_parts_that_touch_keep_their_own_outlines() -> None:
    large, small = box(5, 5, 40, 30), box(40, 5, 52, 30)
    masks = np.stack([large, small])
    assert np.array_equal(outlined_by_components(masks, large | small), masks)
    # Without the small part's own mask, nothing tells the two apart.
    assert np.array_equal(outlined_by_components(large[None], large | small)[0], large | small)


def test_a_piece_and_a_mask_beside_the_foreground_stay() -> None:
    whole, piece, beside = box(5, 5, 40, 40), box(10, 10, 20, 20), box(45, 45, 58, 58)
    masks = np.stack([piece, beside])
    assert np.array_equal(outlined_by_components(masks, whole), masks)
    assert np.array_equal(outlined_by_components(masks, np.zeros_like(whole)), masks)
