"""Segmenting an image into disjoint parts, and the product frame."""

import numpy as np

from pipeline.records import ForegroundMask, ObjectProposals
from pipeline.rulebook.parts import ProductFrame, chosen, frame_of


def test_a_pile_is_replaced_by_the_parts_that_fill_it() -> None:
    masks = np.zeros((4, 20, 40), np.bool_)
    # Both together, with the highest single score.
    masks[0, 5:15, 5:35] = True
    masks[1, 5:15, 5:19] = True
    masks[2, 5:15, 21:35] = True
    # A highlight on one of them.
    masks[3, 7:10, 7:10] = True
    scores = np.array([0.9, 0.85, 0.85, 0.7], np.float32)
    kept = chosen(ObjectProposals(masks, scores, np.ones((20, 40), np.bool_)))
    assert sorted(mask.sum() for mask in kept) == [140, 140]
    alone = np.array([0.9, 0.62, 0.62, 0.6], np.float32)
    kept = chosen(ObjectProposals(masks, alone, np.ones((20, 40), np.bool_)))
    assert [mask.sum() for mask in kept] == [300]
    none = ObjectProposals(masks[:0], scores[:0], np.ones((20, 40), np.bool_))
    assert chosen(none).shape == (0, 20, 40)


def test_the_frame_undoes_shift_and_rotation() -> None:
    frame = ProductFrame(40.0, 60.0, 0.2, 50.0)
    points = np.array([[40.0, 60.0], [10.0, 90.0], [70.5, 3.25]])
    # The product turned, scaled and shifted by hand.
    turn = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    inside = frame.inward(points)
    assert np.allclose(50.0 * inside @ turn.T + (40.0, 60.0), points)
    assert np.allclose(inside[0], 0)
    mask_HW = np.zeros((128, 128), np.bool_)
    mask_HW[30:90, 20:110] = True
    box = frame_of(ForegroundMask(mask_HW))
    assert abs(box.angle) < 0.01
    assert abs(box.size - np.sqrt(59 * 89)) < 2
    assert frame_of(ForegroundMask(mask_HW, fallback="none")).size == 128
