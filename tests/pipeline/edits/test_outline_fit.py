"""Outlines as curves: where they run, how much they cover, and what moves them."""

import numpy as np
import pytest

from pipeline.edits.compositing.outline_fit import (
    Outline,
    cover_of,
    fitted,
    outlines_of,
    tried_offsets,
)

CENTRE = 30.3


def circle(radius: float) -> Outline:
    angles_P = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    normals_P2 = np.stack([np.cos(angles_P), np.sin(angles_P)], 1).astype(np.float32)
    return Outline(normals_P2 * np.float32(radius) + np.float32(CENTRE), normals_P2)


def distances(size: int = 61) -> np.ndarray:
    ys, xs = np.mgrid[:size, :size]
    return np.hypot(ys - CENTRE, xs - CENTRE).astype(np.float32)


@pytest.mark.parametrize("radius", [5.0, 10.3, 20.0])
def test_cover_has_the_area_of_the_outline(radius: float):
    cover_hw = cover_of([circle(radius)], (61, 61), band=2)
    assert np.sqrt(cover_hw.sum() / np.pi) == pytest.approx(radius, abs=0.05)
    _, xs = np.mgrid[:61, :61]
    assert (cover_hw * xs).sum() / cover_hw.sum() == pytest.approx(CENTRE, abs=0.05)


def test_outlines_run_between_the_pixels_and_normals_point_out_of_the_mask():
    ring_hw = (distances() < 20) & (distances() > 10)
    outlines = sorted(outlines_of(ring_hw), key=lambda one: -len(one.points_P2))
    assert len(outlines) == 2
    for outline, radius, outward in zip(outlines, (20, 10), (1, -1), strict=True):
        away_P2 = outline.points_P2 - CENTRE
        assert np.hypot(*away_P2.T).mean() == pytest.approx(radius, abs=0.25)
        along_P = (away_P2 * outline.normals_P2).sum(1) / np.hypot(*away_P2.T)
        assert (outward * along_P).min() > 0.8
    cover_hw = cover_of(outlines, ring_hw.shape, band=2)
    assert cover_hw.sum() == pytest.approx(ring_hw.sum(), rel=0.02)
    assert cover_hw[30, 30] == 0
    hole = cover_of(
        [circle(20.0), Outline(circle(9).points_P2, -circle(9).normals_P2, hole=True)],
        (61, 61),
        band=2,
    )
    assert hole.sum() == pytest.approx(np.pi * (20**2 - 9**2), rel=0.005)


@pytest.mark.parametrize("edge", [18.7, 20.0, 21.2])
def test_an_outline_moves_to_the_edge(edge: float):
    outline, band = circle(20), 2
    tried_K = tried_offsets(band)
    middle_M = (tried_K[1:] + tried_K[:-1]) / 2
    object_PM = np.clip(outline.sampled(edge - distances(), middle_M), -1, 1)
    depth_hw = np.maximum(20 - distances(), 0)
    moved = fitted(outline, object_PM, middle_M, depth_hw, band)
    assert np.hypot(*(moved.points_P2 - CENTRE).T).mean() == pytest.approx(edge, abs=0.5)
    # The proposal is believed a little, and where nothing is known, entirely.
    stayed = fitted(outline, 0 * object_PM, middle_M, depth_hw, band)
    assert np.abs(stayed.points_P2 - outline.points_P2).max() < 0.02


def test_a_thin_piece_keeps_some_of_its_width_though_all_of_it_looks_like_background():
    bar_hw = np.zeros((40, 60), np.bool_)
    bar_hw[18:22, 10:50] = True
    band = 2
    tried_K = tried_offsets(band)
    middle_M = (tried_K[1:] + tried_K[:-1]) / 2
    (outline,) = outlines_of(bar_hw)
    depth_hw = np.zeros(bar_hw.shape, np.float32)
    depth_hw[18:22, 10:50] = np.array([1, 2, 2, 1], np.float32)[:, None]
    against_PM = -np.ones((len(outline.points_P2), len(middle_M)), np.float32)
    cover_hw = cover_of([fitted(outline, against_PM, middle_M, depth_hw, band)], (40, 60), band)
    assert 1 < cover_hw[:, 30].sum() < 3


def test_an_outline_of_few_points_is_an_outline():
    dot_hw = np.zeros((9, 9), np.bool_)
    dot_hw[4, 4] = True
    (outline,) = outlines_of(dot_hw)
    assert np.isfinite(outline.points_P2).all()
    assert cover_of([outline], (9, 9), band=2).sum() <= 1


def test_pieces_that_grow_together_are_one_and_a_piece_may_lie_in_a_hole():
    one, other = circle(8.0), circle(8.0)
    other = Outline(other.points_P2 + np.array((10, 0), np.float32), other.normals_P2)
    assert cover_of([one, other], (61, 61), band=2)[30, 35] == 1
    ring_hw = (distances() < 25) & (distances() > 15) | (distances() < 8)
    cover_hw = cover_of(outlines_of(ring_hw), ring_hw.shape, band=2)
    assert (cover_hw[30, [30, 42, 50]] == (1, 0, 1)).all()
