"""Outlines of round kinds: which are doubtful, and what a corrected one is among the proposals."""

import numpy as np
import pytest
from dim_caps import (
    BAR,
    BAR_VECTOR,
    CAP_VECTOR,
    CUT,
    IMAGES,
    LOPSIDED,
    RADIUS,
    SIDE,
    WHOLE,
    X,
    Y,
    disc,
    embed,
    found,
    learned,
    picture,
)

from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.kinds import UNSURE, PartKinds
from pipeline.part_kinds.whole_outlines import doubtful, is_cut, with_whole_outlines
from pipeline.records import WHOLE_PART


@pytest.fixture(scope="module")
def kinds() -> PartKinds:
    """In a quarter of the images alone the cap's mask is whole."""
    return learned([0.95, 0.8, 0.85, 0.82])


def test_few_whole_circles_tell_that_a_kind_is_round(kinds: PartKinds) -> None:
    cap, bar = kinds.recognise(np.stack([CAP_VECTOR, BAR_VECTOR])).tolist()
    low, high = kinds.radii(cap, (SIDE, SIDE)) or (0.0, 0.0)
    assert low < RADIUS < high
    assert high < 1.2 * low
    # In pixels of any image.
    assert kinds.radii(cap, (4 * SIDE, 4 * SIDE)) == pytest.approx((4 * low, 4 * high))
    assert kinds.radii(bar, (SIDE, SIDE)) is None
    assert kinds.radii(UNSURE, (SIDE, SIDE)) is None


@pytest.mark.parametrize(
    ("circles", "sizes"),
    [
        ([0.9, 0.7, 0.8], (1.0,)),  # nuts: none is a circle
        ([0.95] + [0.8] * 11, (1.0,)),  # one end-on view
        ([0.95, 0.85], tuple(np.linspace(0.8, 1.25, IMAGES))),  # circles of any size
    ],
)
def test_a_kind_of_other_shapes_or_sizes_claims_nothing(
    circles: list[float], sizes: tuple[float, ...]
) -> None:
    irregular = learned(circles, sizes)
    assert not irregular.radii_K2.any()
    assert doubtful(irregular, found(CUT, BAR)) == []
    assert not is_cut(irregular, 0, picture(), CUT)


@pytest.mark.parametrize("cut_HW", [CUT, LOPSIDED], ids=["smaller", "lopsided"])
def test_a_cut_part_gets_a_whole_outline_and_the_old_one_is_its_piece(
    kinds: PartKinds, cut_HW: np.ndarray
) -> None:
    before = found(BAR, cut_HW)
    assert doubtful(kinds, before) == [1]
    after = with_whole_outlines(kinds, picture(), before, embed)
    assert np.array_equal(after.masks_NHW[:2], before.masks_NHW)
    assert after.parent_N.tolist() == [WHOLE_PART, 2, WHOLE_PART]
    assert after.again == 1
    new_HW = after.masks_NHW[2]
    assert (new_HW & WHOLE).sum() > 0.95 * (new_HW | WHOLE).sum()
    assert after.scores_N[2] == before.scores_N[1]
    assert after.vectors_NC is not None
    assert np.array_equal(after.vectors_NC[2], CAP_VECTOR.astype(np.float32))
    # Nothing is left in doubt, and nothing of the record that came in has changed.
    assert doubtful(kinds, after) == []
    assert before.parent_N.tolist() == [WHOLE_PART] * 2


def test_what_is_whole_stays_the_same_record(kinds: PartKinds) -> None:
    before = found(WHOLE, BAR)
    assert with_whole_outlines(kinds, picture(), before, embed) is before


def test_a_circle_that_shows_no_part_of_the_kind_is_not_taken(kinds: PartKinds) -> None:
    before = found(CUT, BAR)
    strange = lambda image_HW3, masks_MHW: np.full((len(masks_MHW), len(CAP_VECTOR)), 90.0)  # noqa: E731
    after = with_whole_outlines(kinds, picture(), before, strange)
    assert len(after) == 2
    assert after.again == 0


def test_a_part_under_another_one_is_not_completed(kinds: PartKinds) -> None:
    over_HW = disc(X + 32, Y, 16)
    before = found(CUT, over_HW)
    assert len(with_whole_outlines(kinds, picture(), before, embed)) == 2


def test_a_mask_is_cut_where_its_part_goes_on(kinds: PartKinds) -> None:
    cap = int(kinds.recognise(CAP_VECTOR[None])[0])
    assert is_cut(kinds, cap, picture(), CUT)
    assert not is_cut(kinds, cap, picture(), WHOLE)
    assert not is_cut(kinds, UNSURE, picture(), CUT)
    plain = np.clip(150 + np.random.default_rng(3).normal(0, 3, (SIDE, SIDE, 3)), 0, 255)
    assert not is_cut(kinds, cap, plain.astype(np.uint8), CUT)


def test_radii_survive_the_cache(kinds: PartKinds) -> None:
    again = part_kinds.unpack(*part_kinds.pack(kinds))
    assert np.array_equal(again.radii_K2, kinds.radii_K2)
