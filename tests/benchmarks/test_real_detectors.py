"""Sets of real parts: defects break the rule, pools are disjoint, truth is where it belongs."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from small_results import image_result, small_version

from benchmarks.real_detectors.__main__ import chosen
from benchmarks.real_detectors.compose import compose
from benchmarks.real_detectors.contents import LOGICAL, STRUCTURAL, Contents, Item, defective, good
from benchmarks.real_detectors.folder import VALUES, write_set, write_subset
from benchmarks.real_detectors.pools import pools
from benchmarks.real_detectors.table import table_of
from benchmarks.real_parts.scenes import COUNTS, Rule
from benchmarks.real_parts.tray import TRAY_CELLS, TRAY_RULE
from pipeline.errors import UserError
from pipeline.sources.layouts.registry import guess_layout

RULES = {
    "free": Rule(COUNTS),
    "tray": Rule(TRAY_RULE, {cell: Counter(kinds) for cell, kinds in TRAY_CELLS.items()}),
    "alike": Rule({"hazelnut": 8}),
}
EVERY = [(arrangement, defect) for arrangement, names in LOGICAL.items() for defect in names]


@pytest.fixture(scope="module")
def photographs(shared):
    folder = shared / "data" / "mvtec_ad"
    if not folder.is_dir():
        pytest.skip(f"no photographs in {folder}")
    return folder


def wrong(arrangement, contents):
    return RULES[arrangement].broken_by((item.kind, item.cell) for item in contents.items)


@pytest.mark.parametrize("arrangement", RULES)
def test_good_contents_keep_the_rule_and_a_broken_part_breaks_no_rule(arrangement):
    assert wrong(arrangement, good(arrangement)) == ()
    broken = defective(arrangement, STRUCTURAL, 1, np.random.default_rng(0))
    assert wrong(arrangement, broken) == ()
    assert [item.kind for item in broken.items if item.wrong] == ["hazelnut"]


@pytest.mark.parametrize(("arrangement", "defect"), EVERY)
def test_every_defect_breaks_the_rule(arrangement, defect):
    parts = {"missing": -1, "extra": 1, "other_type": 0, "exchanged": 0}[defect]
    for number in range(12):
        contents = defective(arrangement, defect, number, np.random.default_rng(number))
        assert wrong(arrangement, contents)
        assert len(contents.items) == len(good(arrangement).items) + parts
    if defect == "exchanged":
        # All counts are right; only places are wrong.
        assert all(text.startswith("compartment") for text in wrong(arrangement, contents))


def test_loose_parts_cannot_be_exchanged():
    with pytest.raises(ValueError, match="free has the defects"):
        defective("free", "exchanged", 0, np.random.default_rng(0))


def test_kinds_are_missing_equally_often():
    lost = Counter(
        defective("tray", "missing", number, np.random.default_rng(number)).lost
        for number in range(12)
    )
    assert lost == {"bottle": 4, "hazelnut": 4, "transistor": 4}


def test_no_photograph_is_in_two_pools(photographs):
    used = pools(photographs)
    for kind in COUNTS:
        train, test = ({part.colour_hw3.tobytes() for part in side[kind]}
                       for side in (used.train, used.test))  # fmt: skip
        broken = {one.part.colour_hw3.tobytes() for one in used.broken[kind]}
        assert len(train) >= 16
        assert len(test) >= 16
        assert broken
        assert not train & test
        assert not (train | test) & broken


def scene(photographs, arrangement, contents, seed=5):
    used = pools(photographs)
    return compose(arrangement, contents, used.test, used.broken, photographs, (seed,), size=128)


def test_truth_marks_all_equal_parts_where_one_is_too_many(photographs):
    contents = defective("free", "extra", 0, np.random.default_rng(0))
    made = scene(photographs, "free", contents)
    (region_HW,) = made.truth
    bottles = [n for n, item in enumerate(contents.items) if item.kind == "bottle"]
    assert len(bottles) == COUNTS["bottle"] + 1
    np.testing.assert_array_equal(region_HW, made.masks_NHW[bottles].any(0))


def test_truth_of_a_missing_part_is_the_free_ground_of_its_compartment(photographs):
    # Compartment 2, upper right, has held a single transistor.
    items = tuple(item for item in good("tray").items if item.cell != 2)
    made = scene(photographs, "tray", Contents(items, "missing", "transistor", 2))
    (region_HW,) = made.truth
    ys, xs = np.nonzero(region_HW)
    assert not (region_HW & made.masks_NHW.any(0)).any()
    assert ys.max() < 64
    assert xs.min() > 64
    # A compartment is a rectangle, and nothing lies in this one.
    assert len(ys) == (np.ptp(ys) + 1) * (np.ptp(xs) + 1)


def test_truth_of_a_broken_part_is_on_it(photographs):
    contents = defective("free", STRUCTURAL, 0, np.random.default_rng(1))
    made = scene(photographs, "free", contents)
    (index,) = [n for n, item in enumerate(contents.items) if item.wrong]
    (region_HW,) = made.truth
    assert region_HW.any()
    # MVTec's mask may reach beyond the outline by a little.
    assert (region_HW & made.masks_NHW[index]).sum() > 0.7 * region_HW.sum()


def test_exchanged_parts_are_both_marked(photographs):
    contents = defective("tray", "exchanged", 0, np.random.default_rng(0))
    made = scene(photographs, "tray", contents)
    marked = [n for n, item in enumerate(contents.items) if item.wrong]
    assert len(made.truth) == len(marked) == 2
    for region_HW, index in zip(made.truth, marked, strict=True):
        np.testing.assert_array_equal(region_HW, made.masks_NHW[index])


def test_equal_arguments_give_equal_scenes(photographs):
    one, again, other = (scene(photographs, "free", good("free"), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.image_HW3, again.image_HW3)
    assert not np.array_equal(one.image_HW3, other.image_HW3)


def test_a_set_is_a_loco_folder_and_more_normals_leave_the_test_images_alone(photographs, tmp_path):
    numbers = {"good_test": 1, "logical": 4, "structural": 1, "size": 128}
    for normals in (1, 3):
        write_set(tmp_path / str(normals), "tray", photographs, normals=normals, **numbers)
    few, more = tmp_path / "1", tmp_path / "3"
    assert guess_layout(few) == "mvtec_loco"
    tests = sorted(path.relative_to(few) for path in few.glob("[tg][er]*/*_*/**/*.png"))
    assert len(list((more / "train" / "good").iterdir())) == 3
    for path in tests:
        assert (few / path).read_bytes() == (more / path).read_bytes()
    # Grey values are the defects in turn, as the table of defects names them.
    names = {row["pixel_value"]: row["defect_name"]
             for row in json.loads((few / "defects_config.json").read_text())}  # fmt: skip
    found = [
        names[np.asarray(Image.open(mask)).max()]
        for mask in sorted((few / "ground_truth" / "logical_anomalies").glob("*/000.png"))
    ]
    assert found == list(LOGICAL["tray"])
    assert set(names.values()) == set(VALUES)
    with pytest.raises(UserError, match="exists already"):
        write_set(few, "tray", photographs)


def test_a_subset_has_the_first_normals_by_number_and_all_test_images(tmp_path):
    source = tmp_path / "set"
    names = ("train/good/2.png", "train/good/10.png", "train/good/9.png", "test/good/7.png")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(name.encode())
    write_subset(source, tmp_path / "two", 2)
    kept = {path.relative_to(tmp_path / "two").as_posix()
            for path in (tmp_path / "two").rglob("*.png")}  # fmt: skip
    assert kept == {"train/good/2.png", "train/good/9.png", "test/good/7.png"}
    with pytest.raises(UserError, match="1 to 3 normals"):
        write_subset(source, tmp_path / "four", 4)


def test_a_store_gives_the_newest_version_of_each_category(tmp_path):
    small_version(tmp_path)
    newest = small_version(tmp_path, results=[image_result(number) for number in range(20, 26)])
    assert [version.name for version in chosen([tmp_path], None)] == [newest.name]
    assert [version.name for version in chosen([newest.dir], None)] == [newest.name]
    with pytest.raises(UserError, match="no version"):
        chosen([tmp_path], ["bag"])


def measured(seed, alarms, auroc):
    line = {"false_alarms": alarms, "good": 60, "found": 90, "anomalous": 120}
    types = {"logical": {"image_auroc": auroc}, "structural": {"image_auroc": 0.5}}
    return {
        "category": "free", "label": "puad", "seed": seed, "train_seconds": 30.0,
        "evaluate_seconds": 9.0,
        "metrics": {"images": 180, "image_auroc": 0.8, "per_type": types,
                    "thresholds": {"threshold_5": None if alarms is None else line}},
    }  # fmt: skip


def test_the_table_adds_false_alarms_over_seeds_and_says_where_a_line_is_missing():
    text = table_of([measured(0, 2, 0.9), measured(1, 7, 1.0), measured(2, None, 0.95)])
    row = [cell.strip() for cell in text.splitlines()[-1].strip("|").split("|")]
    assert row == [
        "free", "puad", "3", "0.950 ± 0.050", "0.500 ± 0.000", "0.800 ± 0.000",
        "9/120 (7.5 %), 1 without", "180/240 (75.0 %), 1 without", "30 ± 0", "0.050 ± 0.000",
    ]  # fmt: skip


def test_contents_name_parts_by_kind_and_compartment():
    assert Item("bottle", 0) in good("tray").items
    assert {item.cell for item in good("free").items} == {-1}
