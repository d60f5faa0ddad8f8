"""Scenes composed from photographs: exact truth, rules that notice edits, the folder."""

import cv2
import numpy as np
import pytest

from benchmarks.command import command
from benchmarks.real_parts.folder import read_folder, write_folder
from benchmarks.real_parts.scenes import ARRANGEMENTS, Rule, compose


@pytest.fixture(scope="module")
def photographs(shared):
    folder = shared / "data" / "mvtec_ad"
    if not folder.is_dir():
        pytest.skip(f"no photographs in {folder}")
    return folder


def gap_between(masks_NHW):
    """The smallest distance between any two parts in pixels; 1 = they touch."""
    gaps = []
    for index, mask_HW in enumerate(masks_NHW[:-1]):
        far_HW = cv2.distanceTransform((~mask_HW).astype(np.uint8), cv2.DIST_L2, 5)
        gaps.append(far_HW[masks_NHW[index + 1 :].any(0)].min())
    return min(gaps)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_a_scene_keeps_its_own_rule_and_no_pixel_has_two_parts(photographs, arrangement):
    scene = compose(arrangement, 3, photographs)
    assert scene.image_HW3.shape == (256, 256, 3)
    assert len(scene.masks_NHW) == len(scene.kinds) == len(scene.cells)
    assert scene.masks_NHW.sum(0).max() == 1
    assert scene.masks_NHW.any((1, 2)).all()
    assert scene.rule.broken_by(zip(scene.kinds, scene.cells, strict=True)) == ()


@pytest.mark.parametrize("seed", range(4))
def test_free_parts_never_touch_and_touching_ones_do(photographs, seed):
    assert gap_between(compose("free", seed, photographs).masks_NHW) > 2
    touching = compose("touching", seed, photographs).masks_NHW
    near_N = [gap_between(np.stack([one, touching.any(0) & ~one])) for one in touching]
    assert max(near_N) < 4


def test_every_part_of_a_tray_lies_in_its_compartment(photographs):
    scene = compose("tray", 1, photographs)
    for mask_HW, cell in zip(scene.masks_NHW, scene.cells, strict=True):
        ys, xs = np.nonzero(mask_HW)
        corners = ((xs.min(), ys.min()), (xs.max(), ys.max()))
        assert {scene.cell_at(x, y) for x, y in corners} == {cell}
    assert scene.cell_at(0, 0) == -1


def test_masks_are_where_the_parts_are(photographs):
    """The same layout on two backgrounds differs outside of the parts, and hardly inside."""
    paper = compose("free", 5, photographs, background="paper")
    metal = compose("free", 5, photographs, background="metal")
    np.testing.assert_array_equal(paper.masks_NHW, metal.masks_NHW)
    inner_HW = cv2.erode(paper.masks_NHW.any(0).astype(np.uint8), np.ones((7, 7))) == 1
    outer_HW = cv2.dilate(paper.masks_NHW.any(0).astype(np.uint8), np.ones((3, 3))) == 0
    # The sensor noise is the same, so inside nothing at all has changed.
    change_HW = np.abs(paper.image_HW3.astype(int) - metal.image_HW3).max(2)
    assert change_HW[inner_HW].max() <= 1
    assert np.median(change_HW[outer_HW]) > 5


def test_equal_arguments_give_equal_scenes_and_another_seed_another_one(photographs):
    first, again = (compose("touching", 2, photographs) for _ in range(2))
    np.testing.assert_array_equal(first.image_HW3, again.image_HW3)
    np.testing.assert_array_equal(first.masks_NHW, again.masks_NHW)
    assert not np.array_equal(first.image_HW3, compose("touching", 6, photographs).image_HW3)


def test_a_rule_names_what_is_wrong():
    loose = Rule({"nut": 2, "screw": 1})
    assert loose.broken_by([("screw", -1), ("nut", -1), ("nut", -1)]) == ()
    assert loose.broken_by([("nut", -1), ("nut", -1)]) == ("0 screw instead of 1",)
    assert loose.broken_by([("nut", -1), ("nut", -1), ("screw", -1), ("pin", -1)]) == (
        "1 pin instead of 0",
    )
    tray = Rule({"nut": 1, "screw": 1}, {0: {"nut": 1}, 1: {"screw": 1}})
    assert tray.broken_by([("nut", 0), ("screw", 1)]) == ()
    # Counts are right, places are not.
    assert tray.broken_by([("nut", 1), ("screw", 0)]) == (
        "compartment 0: wrong parts",
        "compartment 1: wrong parts",
    )
    assert "compartment -1: wrong parts" in tray.broken_by([("nut", 0), ("screw", -1)])


def test_a_folder_of_scenes_comes_back_and_its_images_lie_apart(photographs, tmp_path):
    written = write_folder(tmp_path, "tray", 2, photographs, background="paper")
    read = read_folder(tmp_path)
    # Truth images must not be read as photographs by `generate --source folder:`.
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == list(read)
    for scene, again in zip(written, read.values(), strict=True):
        np.testing.assert_array_equal(scene.image_HW3, again.image_HW3)
        np.testing.assert_array_equal(scene.masks_NHW, again.masks_NHW)
        assert (scene.kinds, scene.cells, scene.rule) == (again.kinds, again.cells, again.rule)


def test_unknown_names_are_errors_that_list_the_known_ones(photographs):
    with pytest.raises(ValueError, match="free"):
        compose("piled", 0, photographs)
    with pytest.raises(ValueError, match="paper"):
        compose("free", 0, photographs, background="sand")


def test_a_folder_without_photographs_is_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        command("real_parts", lambda: compose("free", 0, tmp_path))
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("real_parts: expected photographs")
    assert "--photographs" in line
