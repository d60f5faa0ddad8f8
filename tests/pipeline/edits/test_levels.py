"""A filled hole has no step along its rim, and keeps its texture."""

import cv2
import numpy as np
import pytest

from pipeline.edits.compositing import levels
from pipeline.edits.compositing.levels import levelled
from pipeline.imaging.masks import window

HOLE = np.zeros((64, 64), np.bool_)
HOLE[16:48, 16:48] = True
NOTHING = np.zeros_like(HOLE)


def test_a_paler_patch_takes_the_level_of_its_surroundings():
    rng = np.random.default_rng(0)
    source = 120 + np.linspace(0, 8, 64)[None, :, None] + rng.normal(0, 2, (64, 64, 3))
    filled = source.copy()
    filled[HOLE] += 6
    after = levelled(filled.astype(np.float32), source.astype(np.float32), HOLE, NOTHING)
    assert np.array_equal(after[~HOLE], filled[~HOLE].astype(np.float32))
    assert np.abs((after - source)[HOLE]).mean() < 1
    assert after[HOLE].std() > 0.9 * filled[HOLE].std()


def test_an_edge_that_the_fill_does_not_continue_is_not_smeared_into_it():
    source = np.full((64, 64, 3), 120, np.float32)
    source[:, 56:] = 30
    wide = HOLE.copy()
    wide[16:48, 48:60] = True
    filled = source.copy()
    filled[wide] = 120
    assert np.abs(levelled(filled, source, wide, NOTHING) - filled).max() < 1


@pytest.mark.parametrize("sigma", levels.SIGMAS[:3])
def test_products_of_matrices_are_a_gaussian_blur(sigma):
    image = np.zeros((300, 320), np.float32)
    here, there = np.s_[120:150, 140:180], np.s_[130:160, 100:190]
    image[here] = np.random.default_rng(0).normal(0, 5, (30, 40))
    expected = cv2.GaussianBlur(image, (0, 0), sigma)[there]
    found = levels._spread(image[None, *here], sigma, here, there)
    assert np.abs(found[0] - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_level_of_a_hole_depends_on_its_surroundings_and_not_on_the_window():
    y, x = np.mgrid[:160, :160]
    source = np.repeat((120 + x / 20)[..., None], 3, 2).astype(np.float32)
    hole = (np.abs(y - 80) < 20) & (np.abs(x - 80) < 25)
    filled = source + hole[..., None] * (2 + 3 * y / 160)[..., None].astype(np.float32)
    near = window(hole, levels.SEEN)
    wide = levelled(filled, source, hole, np.zeros_like(hole))
    narrow = levelled(filled[near], source[near], hole[near], np.zeros_like(hole[near]))
    assert np.abs(wide - source)[hole].mean() < 0.5
    assert np.array_equal(wide[near], narrow)
