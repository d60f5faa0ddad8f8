"""The parts that a hole must not cut into, and those that it may."""

import numpy as np

from pipeline.edits.parts_beside import parts_beside, spared
from pipeline.records import ObjectProposals

WHOLE, PRODUCT = -1, -2


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask_HW = np.zeros((128, 128), np.bool_)
    mask_HW[y0:y1, x0:x1] = True
    return mask_HW


def proposals(*masks: np.ndarray, parents: tuple[int, ...] | None = None) -> ObjectProposals:
    parent_N = None if parents is None else np.array(parents, np.int32)
    scores_N = np.ones(len(masks), np.float32)
    return ObjectProposals(np.stack(masks), scores_N, box(0, 0, 128, 128), parent_N=parent_N)


def test_a_part_that_touches_is_beside():
    assert parts_beside(proposals(box(20, 20, 50, 50), box(50, 20, 80, 50)), [0]) == [1]


def test_what_the_part_lies_on_is_not():
    compartment_HW = box(10, 10, 70, 70) & ~box(20, 20, 50, 50)
    found = proposals(box(20, 20, 50, 50), compartment_HW, box(90, 90, 100, 100))
    assert parts_beside(found, [0]) == [2]


def test_the_same_part_again_its_pieces_and_the_product_are_not():
    part_HW, again_HW, piece_HW = box(20, 20, 50, 50), box(22, 20, 52, 50), box(20, 20, 30, 30)
    found = proposals(
        part_HW, again_HW, piece_HW, box(0, 0, 128, 128), parents=(WHOLE, WHOLE, 0, PRODUCT)
    )
    assert found.product_N.tolist() == [False, False, False, True]
    assert parts_beside(found, [0]) == []


def test_two_targets_are_beside_neither():
    found = proposals(box(20, 20, 50, 50), box(50, 20, 80, 50), box(80, 20, 99, 50))
    assert parts_beside(found, [0, 1]) == [2]


def test_what_is_nearer_to_a_part_beside_is_spared_where_its_outline_is_off():
    target_HW, beside_HW, none_HW = box(20, 20, 50, 50), box(58, 20, 90, 50), box(0, 0, 0, 0)
    spared_HW = spared(target_HW, none_HW, beside_HW)
    assert spared_HW[beside_HW].all()
    # Of the eight columns between them three, as far as an outline may be off.
    assert spared_HW[35, 50:58].tolist() == [False] * 5 + [True] * 3
    # Next to both, each has what is nearer to it.
    spared_HW = spared(target_HW, none_HW, box(52, 20, 90, 50))
    assert spared_HW[35, 50:52].tolist() == [False, True]


def test_the_leg_of_the_target_is_not_spared_and_that_of_a_part_beside_is():
    target_HW, beside_HW = box(20, 20, 50, 50), box(58, 20, 90, 50)
    own_HW, other_HW = box(50, 30, 56, 33), box(53, 40, 58, 43)
    spared_HW = spared(target_HW, own_HW | other_HW, beside_HW)
    assert not spared_HW[31, 50:57].any()
    assert spared_HW[41, 55:58].all()
