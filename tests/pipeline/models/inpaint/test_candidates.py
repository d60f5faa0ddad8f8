"""Candidates: the fill nearest to normal images is kept, and the record says which one and why."""

import numpy as np
import pytest

from pipeline.models.inpaint.candidates import CandidateInpainter, FillChoice
from pipeline.models.inpaint.memo import MemoInpainter

IMAGE_HW3 = np.full((32, 40, 3), 100, np.uint8)
HOLE_HW = np.zeros((32, 40), np.bool_)
HOLE_HW[8:16, 10:20] = True


class Painted:
    """An inpainter that paints the whole image in one grey, and counts its calls."""

    def __init__(self, grey: int) -> None:
        self.grey, self.calls = grey, 0

    def __call__(self, image_HW3, hole_HW, avoid_HW=None):
        self.calls += 1
        return np.full_like(image_HW3, self.grey)


def from_100(filled_HW3: np.ndarray, hole_HW: np.ndarray) -> float:
    return float(np.abs(filled_HW3[hole_HW].astype(int) - 100).mean())


@pytest.mark.parametrize(("greys", "nearest"), [((98, 150), "cheap"), ((20, 99), "slow")])
def test_the_nearer_candidate_is_kept(greys, nearest):
    candidates = CandidateInpainter({"cheap": Painted(greys[0]), "slow": Painted(greys[1])})
    filled_HW3, choice = candidates.choose(IMAGE_HW3, HOLE_HW, None, from_100)
    expected = {"cheap": abs(greys[0] - 100), "slow": abs(greys[1] - 100)}
    assert choice == FillChoice(nearest, expected)
    assert (filled_HW3[HOLE_HW] == greys[nearest == "slow"]).all()
    assert (filled_HW3[~HOLE_HW] == 100).all()


def test_of_equal_candidates_and_without_a_measure_the_first_one_is_taken():
    cheap, slow = Painted(90), Painted(110)
    candidates = CandidateInpainter({"cheap": cheap, "slow": slow})
    assert candidates.choose(IMAGE_HW3, HOLE_HW, None, from_100)[1].inpainter == "cheap"
    slow.calls = 0
    assert candidates.choose(IMAGE_HW3, HOLE_HW, None, None)[1] == FillChoice("cheap")
    assert slow.calls == 0


@pytest.mark.parametrize(("grey", "tried"), [(95, 0), (94, 1)])
def test_a_fill_that_is_near_enough_saves_the_others(grey, tried):
    slow = Painted(99)
    memo = MemoInpainter(CandidateInpainter({"cheap": Painted(grey), "slow": slow}), IMAGE_HW3)
    memo.distance, memo.near_enough = from_100, 5.0
    _, choice = memo(HOLE_HW)
    assert choice is not None
    assert (choice.inpainter, slow.calls) == (("slow" if tried else "cheap"), tried)
    assert list(choice.distances) == ["cheap", "slow"][: 1 + tried]


@pytest.mark.parametrize(
    ("plain", "greys", "tried", "kept"),
    [
        (False, (94, 120), ["slow"], "slow"),
        (False, (94, 107), ["slow", "cheap"], "cheap"),
        # A network blurs: that its fill is near saves no other.
        (False, (96, 101), ["slow", "cheap"], "cheap"),
        (False, (94, 101), ["slow", "cheap"], "slow"),
        # A plain surface is continued, and nothing is compared.
        (True, (94, 120), [], "cheap"),
    ],
)
def test_a_large_hole_that_the_network_cannot_fill_is_shown_to_no_other(plain, greys, tried, kept):
    rng = np.random.default_rng(0)
    image_HW3 = np.full((64, 64, 3), 100, np.uint8)
    if not plain:
        image_HW3[:] = np.kron(rng.integers(0, 256, (16, 16, 1)), np.ones((4, 4, 3)))
    hole_HW = np.zeros((64, 64), np.bool_)
    hole_HW[16:48, 16:48] = True
    candidates = CandidateInpainter({"cheap": Painted(greys[0]), "slow": Painted(greys[1])})
    _, choice = candidates.choose(image_HW3, hole_HW, None, from_100, near_enough=5.0)
    assert (list(choice.distances), choice.inpainter) == (tried, kept)


@pytest.mark.parametrize(
    ("rows", "grey", "tried"),
    [
        # Three quarters of an object, a quarter of one, nothing of it.
        (slice(10, 18), 80, ["cheap", "slow"]),
        (slice(14, 22), 80, ["cheap"]),
        (slice(20, 28), 80, ["cheap"]),
        (slice(20, 28), 92, ["cheap", "slow"]),
    ],
)
def test_a_far_fill_where_no_object_was_is_not_tried_again(rows, grey, tried):
    slow = Painted(99)
    memo = MemoInpainter(CandidateInpainter({"cheap": Painted(grey), "slow": slow}), IMAGE_HW3)
    object_HW = np.zeros_like(HOLE_HW)
    object_HW[8:16, 10:20] = True
    memo.distance, memo.near_enough, memo.objects_NHW = from_100, 5.0, object_HW[None]
    hole_HW = np.zeros_like(HOLE_HW)
    hole_HW[rows, 10:20] = True
    _, choice = memo(hole_HW)
    assert choice is not None
    assert list(choice.distances) == tried
    assert slow.calls == len(tried) - 1


def test_a_hole_is_chosen_for_once_and_a_recorded_choice_is_repeated():
    cheap, slow = Painted(20), Painted(99)
    memo = MemoInpainter(CandidateInpainter({"cheap": cheap, "slow": slow}), IMAGE_HW3)
    memo.distance = from_100
    first_HW3, choice = memo(HOLE_HW)
    again_HW3, _ = memo(HOLE_HW)
    assert choice == FillChoice("slow", {"cheap": 80.0, "slow": 1.0})
    assert np.array_equal(first_HW3, again_HW3)
    assert (cheap.calls, slow.calls) == (1, 1)
    # As `verify --regenerate` does, which has no normal images to compare with.
    anew = MemoInpainter(CandidateInpainter({"cheap": cheap, "slow": slow}), IMAGE_HW3)
    assert choice is not None
    repeated_HW3, repeated = anew(HOLE_HW, FillChoice.from_json(choice.to_json()))
    assert repeated == choice
    assert np.array_equal(repeated_HW3, first_HW3)
    assert (cheap.calls, slow.calls) == (1, 2)


def test_a_single_inpainter_makes_no_choice():
    assert MemoInpainter(Painted(7), IMAGE_HW3)(HOLE_HW)[1] is None
