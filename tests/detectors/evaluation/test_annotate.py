"""The picture that explains a score: what is drawn where, and how it is kept between runs."""

import numpy as np

from detectors.base import Reason, Region
from detectors.evaluation.annotate import LINE, READABLE, RIGHT, annotated
from detectors.evaluation.reason_marks import WRONG, marked

SIZE = 64


def region(name: str, x: int, y: int, side: int = 16) -> Region:
    mask_HW = np.zeros((SIZE, SIZE), np.bool_)
    mask_HW[y : y + side, x : x + side] = True
    return Region(name, mask_HW)


def drawn(reasons: list[Reason]) -> np.ndarray:
    image_HW3 = np.full((SIZE, SIZE, 3), 128, np.uint8)
    return annotated(image_HW3, SIZE, [region("bolt", 4, 4), region("nut", 40, 40)], reasons)


def has(
    picture_HW3: np.ndarray, colour: tuple[int, int, int], x0: int, y0: int, x1: int, y1: int
) -> bool:
    """Whether the colour occurs in a box, which is in pixels of the detector's input."""
    scale = READABLE // SIZE
    cut = picture_HW3[scale * y0 : scale * y1, scale * x0 : scale * x1]
    return bool((np.abs(cut.astype(int) - colour).max(2) < 30).any())


def test_wrong_parts_are_pink_and_others_green():
    reason = Reason("bolt.size", "1 to 2", "3", ((4, 4, 20, 20),), (), 0.01, 0.97)
    picture = drawn([reason])
    assert picture.shape == (READABLE + LINE + 8, READABLE, 3)
    assert has(picture, WRONG, 2, 2, 22, 22)
    assert not has(picture, RIGHT, 2, 2, 22, 22)
    assert has(picture, RIGHT, 38, 38, 58, 58)
    assert not has(picture, WRONG, 38, 38, 58, 58)


def test_a_missing_part_has_a_dashed_box():
    reason = Reason("bolt.count", "2", "1", (), ((40, 4, 56, 20),), 0.01, 0.97)
    top = drawn([reason])[10 * 4 - 2 : 10 * 4 + 2, 400:560]
    pink = (np.abs(top.astype(int) - WRONG).max(2) < 30).any(0)
    # Dashes and gaps alternate.
    assert 0.3 < pink.mean() < 0.9


def test_a_reason_has_as_many_lines_as_its_words_need():
    short, long = (
        Reason(f"r{k}", "a place " * count, "y", (), (), 0.01, 0.97)
        for k, count in enumerate((2, 15))
    )
    assert len(drawn([])) == READABLE + LINE + 8
    assert len(drawn([short, short, short])) == READABLE + 3 * LINE + 8
    picture = drawn([long])
    assert len(picture) == READABLE + 2 * LINE + 8
    # Both lines are written on, and neither to the edge.
    bright = picture[READABLE:].min(2) > 200
    assert bright[:LINE].any()
    assert bright[LINE : 2 * LINE].any()
    assert not bright[:, -8:].any()


def test_a_heatmap_shows_the_place_and_the_rule_of_each_reason():
    heat_HW3 = np.full((SIZE, SIZE, 3), 200, np.uint8)
    wrong = Reason("unknown.looks", "a", "b", ((8, 8, 24, 24),), (), 0.01, 0.97)
    lacks = Reason("bolt.count", "2", "1", (), ((40, 36, 56, 52),), 0.01, 0.97)
    found = marked(heat_HW3, SIZE, [wrong, lacks])
    assert found.shape == heat_HW3.shape
    pink = (found == WRONG).all(2)
    assert pink[8, 8:24].all()
    # Dashes and gaps alternate.
    assert 0.3 < pink[36, 40:56].mean() < 0.9
    assert (heat_HW3 == 200).all()
    assert np.array_equal(marked(heat_HW3, SIZE, []), heat_HW3)


def test_what_no_part_is_around_has_a_box():
    reason = Reason("unknown.looks", "a", "b", ((24, 24, 36, 36),), (), 0.01, 0.97)
    assert has(drawn([reason]), WRONG, 23, 23, 37, 37)
