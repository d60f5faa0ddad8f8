"""A wall goes on through a hole, with its own grain, and the rest of the hole is left."""

import numpy as np

from pipeline.models.inpaint.continued import continued
from pipeline.models.inpaint.patch_match import PatchMatchInpainter

HOLE_HW = np.hypot(*(np.mgrid[:128, :128] - 64)) <= 22
NOTHING_HW = np.zeros_like(HOLE_HW)


def tray(grain: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A floor whose shade varies with a grey wall, and the same with a red part in the hole."""
    noise_HW1 = np.random.default_rng(0).normal(0, grain, (128, 128, 1))
    truth_HW3 = np.full((128, 128, 3), 200.0) + noise_HW1
    truth_HW3[74:82] -= 80
    truth_HW3[82:] -= 20
    truth_HW3 = truth_HW3.round().astype(np.uint8)
    image_HW3 = truth_HW3.copy()
    image_HW3[HOLE_HW] = (200, 30, 20)
    return truth_HW3, image_HW3


def test_a_wall_goes_on_and_the_floor_is_left():
    truth_HW3, image_HW3 = tray()
    lines = continued(image_HW3, HOLE_HW, NOTHING_HW, px=0.5)
    wall_HW = HOLE_HW.copy()
    wall_HW[:74] = wall_HW[82:] = False
    assert not lines.left_hw[wall_HW].any()
    off_N3 = lines.image_hw3[wall_HW].astype(float) - truth_HW3[wall_HW]
    assert np.abs(off_N3.mean(0)).max() < 3
    # Its grain, and not only its mean.
    assert lines.image_hw3[77, 50:78].std() > 0.7
    assert lines.left_hw[44:68, 64].all()
    outside_HW = ~HOLE_HW | lines.left_hw
    assert np.array_equal(lines.image_hw3[outside_HW], image_HW3[outside_HW])


def test_where_nothing_runs_on_all_is_left():
    image_HW3 = np.random.default_rng(0).normal(150, 20, (128, 128, 3)).clip(0, 255)
    lines = continued(image_HW3.astype(np.uint8), HOLE_HW, NOTHING_HW, px=0.5)
    assert np.array_equal(lines.left_hw, HOLE_HW)
    assert not lines.lines_hw.any()


def test_patchmatch_continues_walls_across_texture_as_well():
    truth_HW3, image_HW3 = tray()
    y, x = np.mgrid[:128, :128]
    weave_HW1 = (12 * np.sin(x * 1.3) * np.sin(y * 1.3))[..., None]
    image_HW3[~HOLE_HW] = (truth_HW3 + weave_HW1).clip(0, 255)[~HOLE_HW]
    filled_HW3 = PatchMatchInpainter()(image_HW3, HOLE_HW).astype(float)
    wall_hw, floor_hw = filled_HW3[75:81, 50:78], filled_HW3[48:70, 50:78]
    assert np.abs(wall_hw.mean((0, 1)) - 120).max() < 8
    # No piece of the wall is copied into the floor, and the weave is.
    assert np.abs(floor_hw - 200).max() < 30
    assert floor_hw.std() > 3
