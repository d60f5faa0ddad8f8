"""A leg that ends at another part belongs to the part that has more legs; else nobody knows."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.edits.attachments import Surroundings
from pipeline.edits.context import ImageContext
from pipeline.gate.foreseen import UNCLEAR_CONTACT, foreseen
from pipeline.imaging.masks import dilated
from pipeline.models.inpaint.base import OpenCvInpainter
from pipeline.records import WHOLE_PART, WHOLE_PRODUCT, Edit, ObjectProposals

SIZE = 128
BODY, NEIGHBOUR = np.s_[44:86, 30:60], np.s_[56:73, 77:107]
# The middle one ends at the neighbour.
UPPER, MIDDLE, LOWER = np.s_[46:49, 60:74], np.s_[63:66, 60:76], np.s_[81:84, 60:74]
SHARED = {"dilation": 2, "feather": 1, "match_noise": False, "region": [0, 0, SIZE, SIZE]}


def rectangle(at: tuple[slice, slice]) -> np.ndarray:
    mask_HW = np.zeros((SIZE, SIZE), np.bool_)
    mask_HW[at] = True
    return mask_HW


def scene(*legs: tuple[slice, slice]) -> tuple[np.ndarray, ObjectProposals]:
    """A dark body with bright legs, and a brown neighbour; the proposals show neither leg."""
    noise = np.random.default_rng(0).normal(0, 3, (SIZE, SIZE, 3))
    image_HW3 = np.array([150.0, 140.0, 120.0]) + noise
    image_HW3[BODY], image_HW3[NEIGHBOUR] = (25, 22, 28), (120, 60, 30)
    for leg in legs:
        image_HW3[leg] = (235, 235, 240)
    masks_NHW = np.stack([rectangle(BODY), rectangle(NEIGHBOUR)])
    scores_N = np.full(2, 0.9, np.float32)
    found = ObjectProposals(masks_NHW, scores_N, masks_NHW.any(0))
    return np.clip(image_HW3, 0, 255).astype(np.uint8), found


def context(*legs: tuple[slice, slice]) -> ImageContext:
    return ImageContext(*scene(*legs), OpenCvInpainter("telea"))


def missing(target: int) -> Edit:
    return Edit("missing", (target,), SHARED, seed=1)


def test_a_leg_belongs_to_the_part_with_more_legs():
    made = context(UPPER, MIDDLE, LOWER)
    body_HW, neighbour_HW = made.proposals.masks_NHW
    for leg in (UPPER, MIDDLE, LOWER):
        assert body_HW[leg].mean() > 0.7
        assert not neighbour_HW[leg].any()
    # A hole in the neighbour's place spares it.
    hole_HW = dilated(neighbour_HW, 4) | made.light_of([1])
    assert (hole_HW & ~made.stays_beside([1]))[MIDDLE].mean() < 0.2
    assert [foreseen(made, missing(target), [], 0.9) for target in (0, 1)] == ["", ""]


def test_of_one_leg_between_two_parts_nobody_can_tell_whose_it_is():
    made = context(MIDDLE)
    reasons = [foreseen(made, missing(target), [], 0.9) for target in (0, 1)]
    assert reasons == [UNCLEAR_CONTACT, UNCLEAR_CONTACT]
    # Nothing is uncovered where it is recoloured.
    assert foreseen(made, Edit("wrong_colour", (0,), SHARED | {"hue": 60}, seed=1), [], 0.9) == ""


@pytest.mark.parametrize("legs", [(UPPER, MIDDLE, LOWER), (MIDDLE,), (UPPER,)])
def test_pieces_do_not_depend_on_who_is_asked_first(legs):
    image_HW3, proposals = scene(*legs)
    one, other = (Surroundings(image_HW3, proposals) for _ in range(2))
    first = [one.pieces(0), one.pieces(1)]
    then = [other.pieces(1), other.pieces(0)][::-1]
    for before, after in zip(first, then, strict=True):
        assert (before is None) == (after is None)
        if before is not None and after is not None:
            np.testing.assert_array_equal(before.full((SIZE, SIZE)), after.full((SIZE, SIZE)))


def test_two_parts_that_were_taken_for_one_are_not_removed():
    image_HW3, found = scene()
    both_HW = found.masks_NHW.any(0) | rectangle(np.s_[60:70, 60:77])
    masks_NHW = np.stack([both_HW, rectangle(NEIGHBOUR)])
    merged = ObjectProposals(masks_NHW, np.full(2, 0.9, np.float32), both_HW)
    made = ImageContext(image_HW3, merged, OpenCvInpainter("telea"))
    assert foreseen(made, missing(0), [], 0.9) == UNCLEAR_CONTACT
    assert foreseen(made, missing(1), [], 0.9) == ""
    # A product does hold its parts.
    parent_N = np.array([WHOLE_PRODUCT, WHOLE_PART], np.int32)
    made = ImageContext(image_HW3, replace(merged, parent_N=parent_N), OpenCvInpainter("telea"))
    assert foreseen(made, missing(0), [], 0.9) == ""
