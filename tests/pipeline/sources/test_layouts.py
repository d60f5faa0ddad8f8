"""All layouts, read from tiny folders, and the errors in such folders."""

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_sources import (
    DEFECT,
    btad,
    mpdd,
    mvtec_ad,
    mvtec_loco,
    ok_ng,
    visa,
    write_image,
    write_images,
    write_mask,
)

from pipeline.errors import ImageError, SourceError
from pipeline.imaging.walk import natural_key
from pipeline.records import SourceEntry
from pipeline.sources.ground_truth import load_test
from pipeline.sources.layouts.mvtec import read_defects_config
from pipeline.sources.layouts.registry import LAYOUTS, group_of, guess_layout
from pipeline.sources.listing import SourceListing, read_source
from pipeline.sources.splits import split_entries

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "mvtec_ad"


def retinal_oct(root: Path) -> Path:
    for patient in range(10):
        write_images(root, *(f"train/NORMAL/NORMAL-{patient}-{n}.jpeg" for n in range(3)))
    write_images(root, "train/CNV/CNV-50-1.jpeg", "val/NORMAL/NORMAL-3-9.jpeg")
    write_images(root, "test/NORMAL/NORMAL-4-9.jpeg", "test/DME/DME-60-1.jpeg")
    return root


def folder(root: Path) -> Path:
    write_images(root, "10.png", "2.png", "line B/1.jpg", "line B/deep/1.TIFF")
    return root


MAKERS = {
    maker.__name__: maker
    for maker in (mvtec_ad, mvtec_loco, retinal_oct, mpdd, btad, visa, ok_ng, folder)
}


def names_in(listing: SourceListing | Sequence[SourceEntry], split: str) -> list[str]:
    entries = listing.entries if isinstance(listing, SourceListing) else listing
    return [entry.name for entry in entries if entry.split == split]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_is_read_without_problems_and_deterministically(tmp_path, kind):
    root = MAKERS[kind](tmp_path / "product")
    listing = read_source(kind, root, "product")
    assert listing == read_source(kind, root, "product")
    assert not listing.problems
    assert listing.licence == LAYOUTS[kind].licence
    assert guess_layout(root) == kind
    for entry in listing.entries:
        assert entry.category == "product"
        assert entry.path == root.resolve() / entry.name


def test_mvtec_ad_has_one_mask_per_defective_image(tmp_path):
    listing = read_source("mvtec_ad", mvtec_ad(tmp_path), "p")
    assert len(names_in(listing, "train")) == 20
    assert not names_in(listing, "validation")
    assert names_in(listing, "test") == [
        "test/crack/000.png",
        "test/crack/001.png",
        "test/good/000.png",
    ]
    assert [len(entry.masks) for entry in listing.entries if entry.split == "test"] == [1, 1, 0]


def test_mvtec_loco_has_its_own_validation_and_several_masks(tmp_path):
    listing = read_source("mvtec_loco", mvtec_loco(tmp_path), "p")
    assert names_in(listing, "validation") == ["validation/good/000.png"]
    defective = next(entry for entry in listing.entries if entry.defect != "good")
    assert [path.name for path in defective.masks] == ["000.png", "001.png"]
    assert [defect["pixel_value"] for defect in listing.defects_config] == [249, 248]


def test_a_patient_is_in_one_split_only(tmp_path):
    listing = read_source("retinal_oct", retinal_oct(tmp_path), "p")
    assert not any(group_of(entry) in ("patient 3", "patient 4") for entry in listing.entries
                   if entry.split == "train")  # fmt: skip
    assert names_in(listing, "test") == ["test/NORMAL/NORMAL-4-9.jpeg", "test/DME/DME-60-1.jpeg"]
    assert listing.notes == ("6 normals left out: their patients are in test or val as well",)


def test_all_images_of_a_patient_are_held_out_together(tmp_path):
    root = retinal_oct(tmp_path)
    (root / "val/NORMAL/NORMAL-3-9.jpeg").unlink()
    entries = split_entries(read_source("retinal_oct", root, "p").entries, 0.3, seed=5)
    sides = {split: {name.split("-")[1] for name in names_in(entries, split)} for split in
             ("train", "validation")}  # fmt: skip
    assert sides["train"] & sides["validation"] == set()
    assert sides["validation"]


def test_a_plain_folder_is_all_normal_in_natural_order(tmp_path):
    listing = read_source("folder", folder(tmp_path), "p")
    assert names_in(listing, "train") == ["2.png", "10.png", "line B/1.jpg", "line B/deep/1.TIFF"]


@given(st.lists(st.text("a1_20.²", min_size=1, max_size=6), unique=True))
def test_natural_order_is_total_and_numeric(names):
    assert natural_key("img2") < natural_key("img10")
    keys = [natural_key(name) for name in names]
    assert len({tuple(key) for key in keys}) == len(names)
    sorted(keys)


# Errors of a whole folder: SourceError with expected, found, what to do.


# A tree may be read as one of these, without loss: they differ in owner and licence only.
SAME_TREE = {("mpdd", "mvtec_ad"), ("mvtec_ad", "mpdd"), ("mpdd", "ok_ng"), ("mvtec_ad", "ok_ng"),
             ("btad", "ok_ng")}  # fmt: skip
# The last pairs have tests of their own below.
PAIRS = [
    pair
    for pair in itertools.permutations(LAYOUTS, 2)
    if pair not in SAME_TREE | {("mvtec_loco", "mvtec_ad"), ("mvtec_loco", "mpdd")}
]


@pytest.mark.parametrize(("actual", "stated"), PAIRS)
def test_a_wrong_layout_is_an_error_that_suggests_the_right_one(tmp_path, actual, stated):
    root = MAKERS[actual](tmp_path / "product")
    with pytest.raises(SourceError) as caught:
        read_source(stated, root, "product")
    message = str(caught.value)
    assert f"not in the {stated} layout: expected " in message
    assert "found " in message or "saw " in message
    assert f"use {actual}:{root.resolve()}" in message
    assert "\n" not in message


@pytest.mark.parametrize("stated", ["mvtec_ad", "mpdd"])
def test_loco_read_as_ad_is_rejected_as_its_masks_would_be_lost(tmp_path, stated):
    with pytest.raises(SourceError, match="looks like mvtec_loco"):
        read_source(stated, mvtec_loco(tmp_path), "p")


@pytest.mark.parametrize(("actual", "stated"), sorted(SAME_TREE))
def test_one_tree_is_read_alike_under_the_names_of_several_data_sets(tmp_path, actual, stated):
    root = MAKERS[actual](tmp_path)
    contents = [
        {(e.name, e.split, e.defect, e.masks) for e in read_source(kind, root, "p").entries}
        for kind in (actual, stated)
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("stated", ["mvtec_ad", "folder"])
def test_the_folder_above_the_categories_points_to_one(tmp_path, stated):
    mvtec_ad(tmp_path / "bottle")
    with pytest.raises(SourceError, match=r"bottle in it looks like one category: use mvtec_ad:"):
        read_source(stated, tmp_path, "p")


def test_missing_and_empty_folders_and_files(tmp_path):
    with pytest.raises(SourceError, match="no such folder"):
        read_source("folder", tmp_path / "nothing", "p")
    with pytest.raises(SourceError, match="not expanded"):
        read_source("folder", Path("$HOME/images"), "p")
    with pytest.raises(SourceError, match="is a file"):
        read_source("folder", write_image(tmp_path / "a.png"), "p")
    (tmp_path / "empty").mkdir()
    for kind in LAYOUTS:
        with pytest.raises(SourceError, match="is empty"):
            read_source(kind, tmp_path / "empty", "p")
    (tmp_path / "ad" / "train" / "good").mkdir(parents=True)
    with pytest.raises(SourceError, match="no usable normal image"):
        read_source("mvtec_ad", tmp_path / "ad", "p")
    with pytest.raises(SourceError, match="the kinds are mvtec_ad, mvtec_loco, visa"):
        read_source("imagenet", tmp_path, "p")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json", "not readable as JSON"),
        ("{}", "expected a list"),
        (json.dumps([{"defect_name": "a"}]), "entry 0: expected the keys"),
        (json.dumps([DEFECT, DEFECT]), "entry 1: pixel_value 249 is given twice"),
        (json.dumps([DEFECT | {"pixel_value": 256}]), "from 1 to 255, got 256"),
        (json.dumps([DEFECT | {"saturation_threshold": 0}]), "above 0, got 0"),
        (json.dumps([DEFECT | {"relative_saturation": 1}]), "true or false, got 1"),
        (json.dumps([DEFECT | {"relative_saturation": True}]), "at most 1, got 10"),
    ],
)
def test_an_invalid_defects_config_is_an_error(tmp_path, content, message):
    path = tmp_path / "defects_config.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        read_defects_config(path)
    assert str(caught.value).startswith(f"{path}: ")


# Errors of single files: they are recorded, and the rest is read.


def test_bad_files_are_recorded_and_the_rest_is_read(tmp_path):
    root = mvtec_ad(tmp_path / "p")
    (root / "ground_truth/crack/001_mask.png").unlink()
    write_mask(root / "ground_truth/crack/777_mask.png")
    outside = write_image(tmp_path / "secret.png")
    (root / "train/good/link.png").symlink_to(outside)
    (root / "train/good/dangling.png").symlink_to(root / "nowhere.png")
    (root / "train/good/inside.png").symlink_to(root / "train/good/000.png")
    write_image(root / "train/good/line\nbreak.png")
    write_image(root / "train/good" / os.fsdecode(b"\xb2\xe2.png"))
    write_images(root, "train/good/.hidden.png", "train/good/._000.png")
    (root / "train/good/notes.txt").write_text("hello")
    listing = read_source("mvtec_ad", root, "p")
    reasons = {problem.name: problem.reason for problem in listing.problems}
    assert set(reasons) == {
        "ground_truth/crack/777_mask.png",
        "train/good/link.png",
        "train/good/dangling.png",
    }
    # A name of any bytes is a name: it is stored with escapes.
    assert "train/good/line\\x0abreak.png" in names_in(listing, "train")
    assert "train/good/\\xb2\\xe2.png" in names_in(listing, "train")
    assert "leads out" in reasons["train/good/link.png"]
    missing, ignored = listing.notes
    assert missing.startswith("1 of 2 defective test images have no mask, so they count in image ")
    assert "test/crack/001.png; expected ground_truth/DEFECT/STEM_mask.png" in missing
    assert ignored == "1 other files ignored: train/good/notes.txt"
    assert len(names_in(listing, "train")) == 23
    assert "test/crack/001.png" in names_in(listing, "test")


def test_a_folder_of_links_says_where_they_lead_and_is_read_when_that_is_allowed(tmp_path):
    cache, root = tmp_path / "cache", tmp_path / "p"
    root.mkdir()
    for number in range(3):
        (root / f"{number}.png").symlink_to(write_image(cache / f"{number}{number}.png"))
    (root / "more").symlink_to(write_image(cache / "more" / "a.png").parent)
    with pytest.raises(SourceError, match=rf"4 links lead out .* --follow-links {cache}"):
        read_source("folder", root, "p")
    listing = read_source("folder", root, "p", cache)
    assert names_in(listing, "train") == ["0.png", "1.png", "2.png", "more/a.png"]
    assert listing.problems == ()


def test_a_linked_folder_cannot_bring_in_files_from_outside(tmp_path):
    write_image(tmp_path / "elsewhere" / "a.png")
    root = folder(tmp_path / "p")
    (root / "out").symlink_to(tmp_path / "elsewhere")
    (root / "round").symlink_to(root)
    listing = read_source("folder", root, "p")
    assert len(listing.entries) == 4
    assert {problem.name for problem in listing.problems} == {"out", "round"}
    truth = mvtec_ad(tmp_path / "q") / "ground_truth"
    truth.rename(tmp_path / "truth")
    truth.symlink_to(tmp_path / "truth")
    listing = read_source("mvtec_ad", tmp_path / "q", "q")
    assert not any(entry.masks for entry in listing.entries)


def test_a_missing_loco_config_and_a_scan_without_patient_are_problems(tmp_path):
    root = mvtec_loco(tmp_path / "loco")
    (root / "defects_config.json").unlink()
    assert [p.name for p in read_source("mvtec_loco", root, "p").problems] == [
        "defects_config.json"
    ]
    root = retinal_oct(tmp_path / "oct")
    write_image(root / "train/NORMAL/scan.jpeg")
    assert [p.name for p in read_source("retinal_oct", root, "p").problems] == [
        "train/NORMAL/scan.jpeg"
    ]


# Splits.


def entries_of(count: int) -> list[SourceEntry]:
    train = [SourceEntry("p", f"train/good/{n}.png", Path(f"{n}"), "train") for n in range(count)]
    return [*train, SourceEntry("p", "test/good/0.png", Path("0"), "test")]


@given(st.integers(1, 60), st.floats(0, 0.99), st.integers(0, 2**63 - 1), st.randoms())
@settings(max_examples=60)
def test_the_held_out_images_do_not_depend_on_their_order(count, fraction, seed, random):
    entries = entries_of(count)
    split = split_entries(entries, fraction, seed)
    assert [entry.name for entry in split] == [entry.name for entry in entries]
    held_out = set(names_in(split, "validation"))
    wanted = max(1, round(fraction * count)) if fraction else 0
    assert len(held_out) == min(wanted, count - 1)
    assert names_in(split, "test") == ["test/good/0.png"]
    shuffled = random.sample(entries, len(entries))
    assert set(names_in(split_entries(shuffled, fraction, seed), "validation")) == held_out


def test_the_seed_selects_the_images_and_a_given_split_is_kept(tmp_path):
    one, two = (names_in(split_entries(entries_of(50), 0.2, seed), "validation") for seed in (0, 1))
    assert one != two
    loco = read_source("mvtec_loco", mvtec_loco(tmp_path), "p").entries
    assert split_entries(loco, 0.5, 0) == loco


# Ground truth.


def test_loco_regions_are_separated_by_file_and_value(tmp_path):
    listing = read_source("mvtec_loco", mvtec_loco(tmp_path), "p")
    entry = next(entry for entry in listing.entries if entry.defect == "logical_anomalies")
    test = load_test(entry, (24, 32), listing.defects_config)
    assert test.values_K.tolist() == [249, 248]
    assert [int(region.sum()) for region in test.masks_KHW] == [64, 144]
    assert test.pixels_HW3.shape == (24, 32, 3)
    good = load_test(listing.entries[-2], (24, 32), listing.defects_config)
    assert good.masks_KHW.shape == (0, 24, 32)


def test_two_values_in_one_file_are_two_regions(tmp_path):
    listing = read_source("mvtec_loco", mvtec_loco(tmp_path), "p")
    entry = next(entry for entry in listing.entries if entry.defect == "logical_anomalies")
    grey_HW = np.zeros((24, 32), np.uint8)
    grey_HW[:4], grey_HW[10:12] = 249, 248
    Image.fromarray(grey_HW).save(entry.masks[0])
    test = load_test(entry, (24, 32), listing.defects_config)
    assert test.values_K.tolist() == [248, 249, 248]
    write_mask(entry.masks[0], value=7)
    with pytest.raises(ImageError, match=r"000\.png: grey value 7 is not in defects_config"):
        load_test(entry, (24, 32), listing.defects_config)


def test_small_ad_regions_survive_downscaling(tmp_path):
    root = mvtec_ad(tmp_path)
    write_image(root / "test/crack/000.png", size=(400, 400))
    grey_HW = np.zeros((400, 400), np.uint8)
    grey_HW[201, 301] = 1
    Image.fromarray(grey_HW).save(root / "ground_truth/crack/000_mask.png")
    entry = next(e for e in read_source("mvtec_ad", root, "p").entries if e.masks)
    test = load_test(entry, (64, 64))
    assert test.values_K.tolist() == [255]
    assert np.argwhere(test.masks_KHW[0]).tolist() == [[32, 48]]


def test_a_mask_of_another_size_is_an_error(tmp_path):
    root = mvtec_ad(tmp_path)
    write_mask(root / "ground_truth/crack/000_mask.png", size=(64, 64))
    entry = next(e for e in read_source("mvtec_ad", root, "p").entries if e.masks)
    with pytest.raises(ImageError, match=r"000_mask\.png: the mask is 64 x 64 px, its image 32"):
        load_test(entry, (24, 32))


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real MVTec AD images in ../shared")
def test_real_mvtec_categories_are_read_without_a_problem():
    for name, normals, tested in (("bottle", 209, 83), ("hazelnut_reduced", 50, 10)):
        listing = read_source("mvtec_ad", REAL / name, name)
        assert not listing.problems
        assert len(names_in(listing, "train")) == normals
        assert len(names_in(listing, "test")) == tested
        entry = next(entry for entry in listing.entries if entry.masks)
        assert load_test(entry, (256, 256)).masks_KHW.any()
