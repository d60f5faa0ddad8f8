"""Straight lines beside a hidden region: found where they run on at both sides, and continued."""

import cv2
import numpy as np
import pytest

from pipeline.imaging.straight import Lines, lines_beside

SIZE = 96
HIDDEN_HW = np.hypot(*(np.mgrid[:SIZE, :SIZE] - 48)) <= 20
KNOWN_HW = ~HIDDEN_HW


def floor(noise: float = 0.5) -> np.ndarray:
    """A bright floor in CIELAB."""
    lab_HW3 = np.zeros((SIZE, SIZE, 3), np.float32)
    lab_HW3[..., 0] = 80 + np.random.default_rng(0).normal(0, noise, (SIZE, SIZE))
    return lab_HW3


def with_wall(
    lab_HW3: np.ndarray, degrees: float, away: float = 22, ends: int = SIZE
) -> np.ndarray:
    """A dark wall, 5 px broad, whose middle passes the region's middle `away` px off; of its
    length, only the first `ends` columns or rows."""
    y, x = np.mgrid[:SIZE, :SIZE] - 48.0
    across = np.cos(np.deg2rad(degrees)) * x + np.sin(np.deg2rad(degrees)) * y - away
    along = np.cos(np.deg2rad(degrees)) * y - np.sin(np.deg2rad(degrees)) * x + 48
    wall_HW = np.clip(3 - np.abs(across), 0, 1) * (np.abs(along) < ends)
    lab_HW3 = lab_HW3.copy()
    lab_HW3[..., 0] -= 30 * cv2.GaussianBlur(wall_HW.astype(np.float32), (0, 0), 0.8)
    return lab_HW3


def found(lab_HW3: np.ndarray, known_HW: np.ndarray = KNOWN_HW) -> list[Lines]:
    return list(lines_beside(lab_HW3, HIDDEN_HW, known_HW, px=0.5))


@pytest.mark.parametrize("degrees", [0, 3, 30, 90, 117])
def test_a_wall_that_passes_a_region_is_continued_behind_it(degrees: float):
    truth_HW3 = with_wall(floor(), degrees, away=14)
    hidden_HW3 = truth_HW3.copy()
    hidden_HW3[HIDDEN_HW] = (30, 40, 50)
    (lines,) = found(hidden_HW3)
    wall_HW = truth_HW3[..., 0] < 70
    assert lines.beyond_hw[wall_HW].mean() > 0.9
    off_HW = np.abs(lines.expected_hw3 - truth_HW3).max(2)
    assert off_HW[lines.beyond_hw & HIDDEN_HW].mean() < 2.5
    # Not on this side of it, where the floor is.
    assert not lines.past_hw[48, 48]


def test_what_ends_beside_the_region_is_no_line():
    """The edge of a shadow begins at the part, and ends on its other side."""
    assert not found(with_wall(floor(), 90, ends=46))


def test_texture_has_no_lines():
    y, x = np.mgrid[:SIZE, :SIZE]
    mesh_HW3 = floor()
    mesh_HW3[..., 0] += 8 * np.sin(1.5 * x) * np.sin(1.5 * y)
    assert not found(mesh_HW3)
    blobs_HW = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, (SIZE, SIZE)), (0, 0), 2)
    mesh_HW3[..., 0] += 6 * (blobs_HW / blobs_HW.std())
    assert not found(mesh_HW3)


def test_a_neighbour_that_hides_the_wall_is_looked_past():
    wall_HW3 = with_wall(floor(), 90, away=18)
    known_HW = KNOWN_HW.copy()
    known_HW[60:72, 70:74] = False
    wall_HW3[60:72, 70:74] = (10, 0, 0)
    (lines,) = found(wall_HW3, known_HW)
    assert abs(lines.expected_hw3[66, 48, 0] - 50) < 3


def test_nothing_is_told_where_nothing_is_known():
    assert not found(with_wall(floor(), 0), np.zeros_like(KNOWN_HW))
    assert not list(lines_beside(floor()[:4, :4], KNOWN_HW[:4, :4], KNOWN_HW[:4, :4], px=0.02))
