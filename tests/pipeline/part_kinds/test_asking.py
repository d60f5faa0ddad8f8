"""Asking again: only missing parts of recurring kinds, only at their places, and never twice."""

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.models.part_embedding import FACE, PLAIN, UNITS
from pipeline.part_kinds import kinds as part_kinds
from pipeline.part_kinds.asking import SHARED, ask_again, missing_parts
from pipeline.part_kinds.kinds import Observed, PartKinds
from pipeline.records import WHOLE_PART, Analysis, ForegroundMask, ObjectProposals

SIDE, IMAGES = 64, 12
# Column of a vector with the logarithm of the size.
SIZE = 4
# A product of two discs on the left and a bar on the right: places (x, y) and half sides.
DISCS, BAR, DISC_HALF, BAR_HALF = ((14, 18), (14, 46)), (48, 32), 5, 8
GREY, RED, BLUE = 120, (220, 40, 40), (40, 60, 220)


def masks_at(*squares: tuple[int, int, int]) -> np.ndarray:
    """Square masks (x, y, half side), (M, SIDE, SIDE) bool."""
    masks = np.zeros((len(squares), SIDE, SIDE), np.bool_)
    for mask_HW, (x, y, half) in zip(masks, squares, strict=True):
        mask_HW[max(0, y - half) : y + half, max(0, x - half) : x + half] = True
    return masks


ALL = masks_at(*((x, y, DISC_HALF) for x, y in DISCS), (*BAR, BAR_HALF))


def picture() -> np.ndarray:
    image_HW3 = np.full((SIDE, SIDE, 3), GREY, np.uint8)
    image_HW3[ALL[:2].any(0)], image_HW3[ALL[2]] = RED, BLUE
    return image_HW3


def embed(image_HW3: np.ndarray, masks_MHW: np.ndarray) -> np.ndarray:
    """Vectors of colour, size and noise, which are all that tells these parts apart."""
    rng = np.random.default_rng(int(masks_MHW.sum()))
    vectors = rng.normal(0, 0.3, (len(masks_MHW), PLAIN + 8 + FACE))
    for vector_C, mask_HW in zip(vectors, masks_MHW, strict=True):
        vector_C[:3] += image_HW3[mask_HW].mean(0) / 4
        vector_C[SIZE] = np.log(np.sqrt(mask_HW.mean())) / UNITS[SIZE]
    return vectors.astype(np.float32)


def proposals(masks_NHW: np.ndarray) -> ObjectProposals:
    foreground_HW = np.ones((SIDE, SIDE), np.bool_)
    scores_N = np.linspace(0.9, 0.8, len(masks_NHW), dtype=np.float32)
    return ObjectProposals(
        masks_NHW, scores_N, foreground_HW, vectors_NC=embed(picture(), masks_NHW)
    )


@pytest.fixture(scope="module")
def kinds() -> PartKinds:
    """Of twelve images; parts lie up to two pixels off their places."""
    observed = []
    for seed in range(IMAGES):
        rng = np.random.default_rng(seed)
        moved = [(x, y, DISC_HALF) for x, y in DISCS] + [(*BAR, BAR_HALF)]
        centres = [(x + rng.integers(-2, 3), y + rng.integers(-2, 3)) for x, y, _ in moved]
        noise = rng.normal(0, 0.3, (3, PLAIN + 8 + FACE))
        vectors = (embed(picture(), ALL) + noise).astype(np.float32)
        observed.append(Observed(vectors, np.array(centres) / SIDE))
    learned = part_kinds.learn(observed)
    assert learned is not None
    assert sorted(learned.usual_K.tolist()) == [1, 2]
    return learned


class Model:
    """A proposal model that answers with these masks, and keeps what it was asked."""

    def __init__(self, *answers: np.ndarray) -> None:
        self.answers, self.boxes = answers, np.zeros((0, 4))

    def __call__(
        self, image_HW3: np.ndarray, foreground_HW: np.ndarray, boxes_P4: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.boxes = boxes_P4
        masks = np.array(self.answers, np.bool_).reshape(-1, SIDE, SIDE)
        return masks, np.full(len(masks), 0.7, np.float32)


@pytest.fixture
def asked(kinds: PartKinds) -> Callable[..., ObjectProposals]:
    def ask(found: np.ndarray, soft: np.ndarray, model: Model) -> ObjectProposals:
        first = proposals(found)
        analysis = Analysis(ForegroundMask(first.foreground_HW), first, proposals(soft))
        again = ask_again(kinds, picture(), analysis, model, embed)
        assert np.array_equal(again.masks_NHW[: len(found)], found)
        assert again.again == len(again) - len(found)
        return again

    return ask


def test_where_nothing_is_missing_nobody_is_asked(asked: Callable[..., ObjectProposals]) -> None:
    model = Model(ALL[0])
    assert asked(ALL, ALL, model).again == 0
    assert not len(model.boxes)


def test_a_mask_under_softer_limits_is_taken_without_asking(
    asked: Callable[..., ObjectProposals],
) -> None:
    model = Model()
    again = asked(ALL[1:], ALL, model)
    assert np.array_equal(again.masks_NHW[2:], ALL[:1])
    assert again.parent_N.tolist() == [WHOLE_PART] * 3
    assert not len(model.boxes)


def test_a_missing_part_is_asked_for_where_no_known_part_lies(
    asked: Callable[..., ObjectProposals], kinds: PartKinds
) -> None:
    model = Model(ALL[0])
    again = asked(ALL[1:], ALL[1:], model)
    assert np.array_equal(again.masks_NHW[2:], ALL[:1])
    assert missing_parts(kinds, again).tolist() == [0, 0]
    middles = (model.boxes[:, :2] + model.boxes[:, 2:]) / 2
    x, y = DISCS[0]
    assert (np.hypot(middles[:, 0] - x, middles[:, 1] - y) < DISC_HALF).any()
    inside = [bool(ALL[1:, int(b), int(a)].any()) for a, b in middles]
    assert not any(inside)


@pytest.mark.parametrize(
    "wrong",
    [
        masks_at((30, 10, DISC_HALF))[0],  # bare ground
        masks_at((14, 18, 2 * DISC_HALF))[0],  # the part and much around it
        masks_at((12, 18, 2))[0],  # a fragment
        ALL[0] | ALL[1],  # with a part that is known
        np.zeros((SIDE, SIDE), np.bool_),
    ],
    ids=["ground", "too large", "fragment", "two parts", "empty"],
)
def test_an_answer_that_is_no_missing_part_is_not_taken(
    asked: Callable[..., ObjectProposals], wrong: np.ndarray
) -> None:
    assert asked(ALL[1:], ALL[1:], Model(wrong)).again == 0


def test_no_more_parts_are_taken_than_are_missing(asked: Callable[..., ObjectProposals]) -> None:
    """The best answer counts; others of the same part, and further parts, do not."""
    beside = masks_at((15, 18, DISC_HALF))[0]
    assert (beside & ALL[0]).sum() > SHARED * ALL[0].sum()
    again = asked(ALL[1:], ALL[1:], Model(beside, ALL[0]))
    assert again.again == 1
    assert np.array_equal(again.masks_NHW[-1], ALL[0])


def test_what_no_number_is_usual_of_is_not_missed(kinds: PartKinds) -> None:
    """Images with one disc or two: neither is too few; and seven images prove nothing."""
    varied = []
    for seed in range(IMAGES):
        chosen = ALL if seed % 2 else ALL[1:]
        noise = np.random.default_rng(seed).normal(0, 0.3, (len(chosen), PLAIN + 8 + FACE))
        vectors = (embed(picture(), chosen) + noise).astype(np.float32)
        varied.append(Observed(vectors, np.full((len(chosen), 2), 0.5)))
    learned = part_kinds.learn(varied)
    assert learned is not None
    assert sorted(learned.usual_K.tolist()) == [0, 1]
    few = part_kinds.learn(varied[: part_kinds.REGULAR_IMAGES - 1])
    assert few is not None
    assert not few.usual_K.any()
