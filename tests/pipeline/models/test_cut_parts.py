"""Two masks that cut one part across are put together; parts that touch stay apart."""

import cv2
import numpy as np
import pytest

from pipeline.models.cut_parts import put_together
from pipeline.records import ForegroundMask

# Something else, so that no component is the whole product.
BESIDE = np.s_[60:90, 60:90]


def found(first_HW: np.ndarray, second_HW: np.ndarray) -> int:
    foreground_HW = first_HW | second_HW
    foreground_HW[BESIDE] = True
    masks_NHW = np.stack([first_HW, second_HW])
    together_NHW = put_together(masks_NHW, ForegroundMask(foreground_HW))
    for part_HW in together_NHW:
        assert (part_HW == first_HW | second_HW).all()
    return len(together_NHW)


def box(rows: slice, columns: slice) -> np.ndarray:
    mask_HW = np.zeros((100, 100), np.bool_)
    mask_HW[rows, columns] = True
    return mask_HW


def disc(x: int, y: int, radius: int) -> np.ndarray:
    mask_HW = np.zeros((100, 100), np.uint8)
    return cv2.circle(mask_HW, (x, y), radius, 1, cv2.FILLED) > 0


def test_the_halves_of_a_rod_are_one_part() -> None:
    assert found(box(np.s_[10:18], np.s_[5:45]), box(np.s_[10:18], np.s_[45:80])) == 1


@pytest.mark.parametrize("pair", [
    (disc(20, 20, 12), disc(42, 20, 12)),
    # Side by side, as pins in a box.
    (box(np.s_[10:16], np.s_[5:60]), box(np.s_[16:22], np.s_[5:60])),
    # Apart.
    (box(np.s_[10:18], np.s_[5:40]), box(np.s_[10:18], np.s_[45:80])),
])  # fmt: skip
def test_parts_that_touch_stay_apart(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert found(*pair) == 0


def test_a_part_that_a_mask_shows_is_not_proposed_twice() -> None:
    rod_HW, *pieces = (
        box(np.s_[10:18], np.s_[left:right])
        for left, right in ((5, 95), (5, 54), (54, 65), (65, 76))
    )
    foreground_HW = rod_HW.copy()
    foreground_HW[BESIDE] = True
    foreground = ForegroundMask(foreground_HW)
    assert len(put_together(np.stack(pieces), foreground)) == 1
    assert len(put_together(np.stack([rod_HW, *pieces]), foreground)) == 0
