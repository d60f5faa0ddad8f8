"""A second look replaces fragments, and leaves what looks good or is wrong as it is."""

from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import toy_rules as toy

from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.check import recognised_in
from pipeline.rulebook.findings import findings_of
from pipeline.rulebook.parts import Parts
from pipeline.rulebook.recognition import REACH
from pipeline.rulebook.second_look import look_again

SEED = 301


class Looking(toy.ToyFinder):
    """Finds these masks (H, W) in whatever box it is asked about."""

    def __init__(self, masks: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.masks = masks

    def within(self, image_HW3: np.ndarray, boxes_P4: np.ndarray) -> np.ndarray:
        return np.array(self.masks, np.bool_).reshape(-1, *image_HW3.shape[:2])


@pytest.fixture
def image_HW3() -> np.ndarray:
    return toy.board(SEED)


def cut(image_HW3: np.ndarray, share: float = 0.4) -> tuple[Parts, np.ndarray]:
    """The parts of a board with only a share of its first one, and the mask of the whole one."""
    find = toy.ToyFinder()
    parts = find(image_HW3)
    whole_HW = parts.masks_NHW[0]
    rows = np.flatnonzero(whole_HW.any(1))
    masks_NHW = parts.masks_NHW.copy()
    masks_NHW[0, rows[int(share * len(rows)) :]] = False
    return Parts(masks_NHW, find.describe(image_HW3, masks_NHW, parts.frame), parts.frame), whole_HW


def with_shadow(whole_HW: np.ndarray, reach: int) -> np.ndarray:
    """A mask with as many rows of background below it."""
    down = np.float32([[1, 0, 0], [0, 1, reach]])
    moved = cv2.warpAffine(whole_HW.astype(np.uint8), down, whole_HW.shape[::-1])
    return whole_HW | (moved > 0)


@pytest.mark.parametrize("first", [0, 1])
def test_the_mask_that_looks_best_replaces_a_fragment_however_sure_the_finder_is(
    book: RuleBook, image_HW3: np.ndarray, first: int
):
    parts, whole_HW = cut(image_HW3)
    masks = [whole_HW, with_shadow(whole_HW, 3)]
    again = look_again(book, Looking([masks[first], masks[1 - first]]), image_HW3, parts)
    assert not any(finding.broken for finding in findings_of(book, recognised_in(book, again)))
    assert (again.masks_NHW == whole_HW).all((1, 2)).any()


@pytest.mark.parametrize(("shadow", "taken"), [(2, True), (5, False)])
def test_a_mask_just_beyond_recognition_is_still_better_than_a_fragment(
    book: RuleBook, image_HW3: np.ndarray, shadow: int, taken: bool
):
    parts, whole_HW = cut(image_HW3)
    mask_HW = with_shadow(whole_HW, shadow)
    again = look_again(book, Looking([mask_HW]), image_HW3, parts)
    assert (again.masks_NHW == mask_HW).all((1, 2)).any() == taken
    # It is of no known kind, all the same.
    odd = [part for part in recognised_in(book, again) if part.likeness > REACH]
    assert [part.name for part in odd] == [None]
