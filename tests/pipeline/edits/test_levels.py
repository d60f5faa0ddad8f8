"""A filled hole has no step along its rim, and keeps its texture."""

import numpy as np

from pipeline.edits.compositing import levels
from pipeline.edits.compositing.levels import levelled
from pipeline.imaging.near_region import mean_near

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


def test_in_a_large_window_wide_blurs_of_fewer_pixels_give_the_same():
    y, x = np.mgrid[:256, :256]
    source = np.repeat((120 + 8 * x / 256)[..., None], 3, 2).astype(np.float32)
    hole = np.hypot(y - 128, x - 128) < 80
    filled = source + hole[..., None] * (5 + 3 * y / 256)[..., None].astype(np.float32)
    whole = np.s_[0:256, 0:256]
    exact = mean_near(filled - source, hole, levels.SIGMAS[-1])[0]
    reduced = levels._continued(filled - source, hole, levels.SIGMAS[-1], whole)[0]
    assert np.abs(exact - reduced)[hole].max() < 0.1
