"""The renderer: rules, exact masks, paired images, the LOCO layout."""

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenes import bottle, pins, tray
from scenes.loco import write_loco
from scenes.records import Scene
from scenes.render import PRODUCTS, defects, pixel_value, render, rule

SIZE = 128
ALL_DEFECTS = [(product, name) for product in PRODUCTS for name in defects(product)]
few = settings(
    max_examples=6, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


def cell_of(mask_HW: np.ndarray, cells: dict) -> object:
    """The cell whose centre is nearest to the mask's centre (poses move it only slightly)."""
    y, x = (float(axis.mean()) / len(mask_HW) for axis in np.nonzero(mask_HW))

    def far(box: tuple[float, float, float, float]) -> float:
        half_x, half_y = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
        return max(abs(x - box[0] - half_x) / half_x, abs(y - box[1] - half_y) / half_y)

    return min(cells, key=lambda name: far(cells[name]))


def obeys(scene: Scene) -> bool:
    """Whether the product's written rule holds, checked on the instances alone."""
    parts = Counter(instance.part for instance in scene.instances)
    if scene.product == "tray":
        home = all(cell_of(i.mask_HW, tray.CELLS) == i.part for i in scene.instances)
        return parts == Counter(tray.COUNTS) and home
    if scene.product == "bag":
        return parts == Counter(long_bolt=1, short_bolt=1, nut=2, washer=2)
    if scene.product == "pins":
        cells = {
            (row, column): pins.cell(row, column)
            for row in range(pins.ROWS)
            for column in range(pins.COLUMNS)
        }
        lying = Counter((cell_of(i.mask_HW, cells), i.part) for i in scene.instances)
        return lying == Counter((key, f"pin_{pins.ROW_COLOURS[key[0]]}") for key in cells)
    fruit = next(name for name in parts if name.startswith("liquid_")).removeprefix("liquid_")
    if parts != Counter([f"liquid_{fruit}", "cap", f"label_{fruit}", "text_label"]):
        return False
    masks = {i.part: i.mask_HW for i in scene.instances}
    above = (
        np.nonzero(masks[f"label_{fruit}"])[0].mean() < np.nonzero(masks["text_label"])[0].mean()
    )
    # From the top of the cap to the juice, against the fixed distance in the product frame.
    gap = np.nonzero(masks[f"liquid_{fruit}"])[0].min() - np.nonzero(masks["cap"])[0].min()
    wanted = bottle.LEVEL - 0.075
    return bool(above) and abs(gap / len(scene.image_HW3) - wanted) < 0.03


@pytest.mark.parametrize("product", PRODUCTS)
def test_same_seed_same_bytes_other_seed_other_bytes(product: str) -> None:
    first, again, other = (render(product, seed, size=SIZE) for seed in (3, 3, 4))
    assert first.image_HW3.tobytes() == again.image_HW3.tobytes()
    assert first.image_HW3.tobytes() != other.image_HW3.tobytes()
    assert first.image_HW3.shape == (SIZE, SIZE, 3)
    assert first.image_HW3.dtype == np.uint8
    assert rule(product)


@pytest.mark.parametrize("product", PRODUCTS)
@few
@given(seed=st.integers(0, 10_000))
def test_good_scenes_obey_the_rule_and_masks_are_exact(product: str, seed: int) -> None:
    scene = render(product, seed, size=SIZE)
    assert (scene.kind, scene.defect, scene.defect_masks) == ("good", "good", ())
    assert obeys(scene)
    masks_NHW = np.stack([instance.mask_HW for instance in scene.instances])
    assert masks_NHW.dtype == bool
    assert masks_NHW.shape[1:] == (SIZE, SIZE)
    assert masks_NHW.sum(0).max() == 1, "instances share no pixel"
    assert masks_NHW.any((1, 2)).all(), "no part is wholly hidden"
    assert not (masks_NHW.any(0) & ~scene.product_HW).any(), "parts lie in the product"
    border = np.concatenate(
        [scene.product_HW[[0, -1]].ravel(), scene.product_HW[:, [0, -1]].ravel()]
    )
    assert not border.any(), "the whole product is in the image"


@pytest.mark.parametrize(("product", "defect"), ALL_DEFECTS)
def test_defects_break_the_rule_exactly_when_they_are_logical(product: str, defect: str) -> None:
    scene, good = render(product, 1, defect, SIZE), render(product, 1, size=SIZE)
    assert scene.kind == defects(product)[defect]
    assert obeys(scene) == (scene.kind == "structural")
    assert scene.defect_masks
    marked_HW = np.zeros((SIZE, SIZE), bool)
    for value, mask_HW in scene.defect_masks:
        assert value == pixel_value(product, defect)
        assert mask_HW.any()
        marked_HW |= mask_HW
    # The image differs from the good one, and most inside the ground truth.
    change_HW = np.abs(scene.image_HW3.astype(int) - good.image_HW3).max(2)
    assert change_HW[marked_HW].mean() > 3 * change_HW[~marked_HW].mean() + 3


def test_every_branch_of_a_random_defect_draws() -> None:
    # Some defects select the affected part by seed: a label or the text, a row, a side.
    for product, defect in ALL_DEFECTS:
        for seed in range(20, 24):
            scene = render(product, seed, defect, size=64)
            assert all(mask_HW.any() for _, mask_HW in scene.defect_masks)


def test_another_backdrop_moves_no_part() -> None:
    usual, other = (render("bag", 2, size=SIZE, backdrop=name) for name in (None, "wood"))
    assert (usual.product_HW == other.product_HW).all()
    assert (usual.image_HW3 != other.image_HW3).any()
    assert render("bottle", 2, size=64, backdrop="any").image_HW3.shape == (64, 64, 3)


def test_each_logical_defect_changes_the_counts_it_names() -> None:
    for product, defect in ALL_DEFECTS:
        if not defect.startswith(("missing_", "extra_")):
            continue
        good, bad = (
            Counter(i.part for i in render(product, 5, name, SIZE).instances)
            for name in ("good", defect)
        )
        change = bad if defect.startswith("extra_") else good
        change = change - (good if change is bad else bad)
        assert sum(change.values()) == 1, defect
        assert next(iter(change)).split("_")[0] == defect.split("_")[1], defect


@pytest.mark.parametrize("product", PRODUCTS)
def test_without_one_part_the_rest_of_the_image_stays(product: str) -> None:
    size = 192
    whole = render(product, 11, size=size)
    for k in {0, len(whole.instances) // 2, len(whole.instances) - 1}:
        less = render(product, 11, size=size, without=k)
        names = [instance.part for instance in whole.instances]
        assert [i.part for i in less.instances] == names[:k] + names[k + 1 :]
        mask_HW = whole.instances[k].mask_HW
        change_HW = (whole.image_HW3 != less.image_HW3).any(2)
        assert change_HW[mask_HW].mean() > 0.5, "the part is gone"
        # Part, hidden remainder and soft shadow: nothing changes farther away than this.
        reach = 2 * round(0.13 * size) + 1
        near_HW = cv2.dilate(mask_HW.astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
        assert not (change_HW & ~near_HW).any()


def test_bad_arguments_say_what_was_expected() -> None:
    with pytest.raises(ValueError, match="product must be one of"):
        render("teapot", 0)
    with pytest.raises(ValueError, match="defect of bag"):
        render("bag", 0, "underfilled")
    with pytest.raises(ValueError, match="without must be"):
        render("bag", 0, without=99)


def test_loco_layout_grey_values_and_reuse(tmp_path: Path) -> None:
    folder = write_loco(tmp_path, "bag", 2, 1, 1, 1, seed=4, size=96)
    config = json.loads((folder / "defects_config.json").read_text())
    assert [row["pixel_value"] for row in config] == list(range(255, 255 - len(config), -1))
    assert {row["defect_name"] for row in config} == set(defects("bag"))
    assert set(config[0]) == {
        "defect_name",
        "pixel_value",
        "saturation_threshold",
        "relative_saturation",
    }
    count = {
        name: len(list((folder / name).glob("*.png")))
        for name in (
            "train/good",
            "validation/good",
            "test/good",
            "test/logical_anomalies",
            "test/structural_anomalies",
        )
    }
    assert list(count.values()) == [2, 1, 1, 7, 4]

    known = {row["pixel_value"] for row in config}
    for kind in ("logical_anomalies", "structural_anomalies"):
        for image in sorted((folder / "test" / kind).glob("*.png")):
            truths = sorted((folder / "ground_truth" / kind / image.stem).glob("*.png"))
            assert [t.name for t in truths] == [f"{i:03d}.png" for i in range(len(truths))]
            for truth in truths:
                grey = cv2.imread(str(truth), cv2.IMREAD_UNCHANGED)
                assert grey.shape == (96, 96)
                values = set(np.unique(grey)) - {0}
                assert len(values) == 1
                assert values <= known

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert write_loco(tmp_path, "bag", 2, 1, 1, 1, seed=4, size=96) == folder
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_loco_is_byte_identical_and_never_replaces_foreign_folders(tmp_path: Path) -> None:
    one, two = (write_loco(tmp_path / name, "pins", 1, 1, 0, 1, size=64) for name in "ab")
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in files)

    (tmp_path / "c" / "tray").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="move it away"):
        write_loco(tmp_path / "c", "tray", 1, 0, 0, 0, size=64)
    assert not list(tmp_path.glob("*/.*tmp*")), "nothing half-written is left behind"
