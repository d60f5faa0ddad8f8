"""The geometry of a part: against its drawing, and the same wherever the part lies."""

import cv2
import numpy as np
import pytest

from pipeline.imaging.part_shape import (
    PartShape,
    circle_share,
    colour_of,
    face_of,
    on_grey,
    turned,
)

SIDE, SCALE = 64, 0.5


def drawn(size: int, x: int, y: int) -> tuple[np.ndarray, np.ndarray]:
    """A bar of 80 x 20 px with a hole, around (x, y) on a gradient, and its mask."""
    image_HW3 = np.full((size, size, 3), 60, np.uint8)
    mask_u8 = np.zeros((size, size), np.uint8)
    cv2.rectangle(mask_u8, (x - 40, y - 10), (x + 39, y + 9), 1, -1)
    cv2.rectangle(mask_u8, (x - 2, y - 2), (x + 1, y + 1), 0, -1)
    image_HW3[mask_u8 > 0] = (200, 120, 40)
    image_HW3[y - 10 : y, x - 40 : x + 40] //= 2
    return image_HW3, mask_u8 > 0


def test_a_bar_has_the_shape_that_was_drawn() -> None:
    shape = PartShape.of(drawn(128, 60, 70)[1])
    assert shape.centre == pytest.approx((59.5, 69.5))
    assert shape.area == 80 * 20 - 16
    assert shape.elongation == pytest.approx(4, abs=0.01)
    assert np.sin(shape.angle) == pytest.approx(0, abs=1e-6)
    assert shape.solidity == pytest.approx(1)
    assert shape.holes == pytest.approx(16 / 1600)
    assert shape.reach == pytest.approx(39.5 + 1)
    assert shape.radius == pytest.approx(np.hypot(39.5, 9.5) + 1)


@pytest.mark.parametrize("turn", [0.0, 0.7, np.pi])
def test_a_part_in_a_large_image_is_described_as_in_a_small_one(turn: float) -> None:
    """Only its window is read, and the window holds all of the crop."""
    found = []
    for size, x, y in ((128, 60, 70), (500, 300, 250)):
        image_HW3, mask_HW = drawn(size, x, y)
        shape = PartShape.of(mask_HW)
        crop_SS3, cover_SS = turned(image_HW3, mask_HW, shape.centre, turn, SIDE, SCALE)
        lab_3, texture = colour_of(image_HW3.astype(np.float32), mask_HW)
        face_S = face_of(on_grey(crop_SS3, cover_SS))
        found.append(np.concatenate([cover_SS.ravel(), lab_3, [texture], face_S]))
    assert found[0] == pytest.approx(found[1], abs=1e-4)
    assert found[0][: SIDE**2].sum() == pytest.approx(1584 * SCALE**2, rel=0.05)


def test_the_face_tells_which_side_is_up() -> None:
    image_HW3, mask_HW = drawn(128, 60, 70)
    shape = PartShape.of(mask_HW)
    up, down = (
        face_of(on_grey(*turned(image_HW3, mask_HW, shape.centre, turn, SIDE, SCALE)))
        for turn in (0.0, np.pi)
    )
    assert np.linalg.norm(up) == pytest.approx(1)
    assert up @ down < 0.9
    assert up @ np.rot90(down.reshape(8, 8), 2).ravel() > 0.95


def test_a_disc_fills_its_circle_and_nothing_else_does() -> None:
    def ellipse(width: int, height: int) -> np.ndarray:
        canvas = np.zeros((160, 160), np.uint8)
        return cv2.ellipse(canvas, (80, 80), (width, height), 0, 0, 360, 1, -1) > 0

    assert all(0.93 < circle_share(ellipse(r, r)) < 1.01 for r in (12, 25, 70))
    assert circle_share(ellipse(60, 45)) == pytest.approx(0.75, abs=0.02)
    assert circle_share(drawn(160, 60, 70)[1]) == pytest.approx(
        1584 / (np.pi * np.hypot(40, 10) ** 2), rel=0.02
    )
