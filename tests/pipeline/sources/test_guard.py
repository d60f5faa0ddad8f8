"""A plain folder is refused where defects or masks may be among its images; others are not."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_sources import btad, mvtec_ad, ok_ng, visa, write_images, write_mask

from pipeline.errors import SourceError
from pipeline.sources.listing import read_source
from pipeline.sources.options import SourceOptions

ALL_NORMAL = SourceOptions(all_normal=True)


def photo(path: Path, seed: int = 0) -> Path:
    """An image of many colours, as no mask is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels_HW3 = np.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels_HW3).save(path)
    return path


def photos(root: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        photo(root / name, number)
    return root


def refusal(root: Path) -> str:
    """The one line with which `folder:root` is refused; `all_normal` reads it all the same."""
    with pytest.raises(SourceError) as caught:
        read_source("folder", root, "p")
    assert read_source("folder", root, "p", options=ALL_NORMAL).entries
    message = str(caught.value)
    assert message.startswith(f"{root}: not in the folder layout: expected images that are all ")
    assert message.endswith("say --all-normal (in a manifest: all_normal: true)")
    assert "\n" not in message
    return message


def accepted(root: Path, count: int) -> None:
    assert len(read_source("folder", root, "p").entries) == count


# Data sets, whole or in part: the layout that fits is named.


@pytest.mark.parametrize(
    ("make", "part", "use"),
    [
        (mvtec_ad, ".", "mvtec_ad:ROOT"),
        (mvtec_ad, "test", "mvtec_ad:ROOT"),
        (mvtec_ad, "test/crack", "mvtec_ad:ROOT"),
        (mvtec_ad, "ground_truth", "mvtec_ad:ROOT"),
        (mvtec_ad, "ground_truth/crack", "mvtec_ad:ROOT"),
        (btad, "test", "btad:ROOT"),
        (visa, ".", "visa:ROOT"),
        (visa, "Data/Images", "visa:ROOT"),
        (visa, "Data/Masks", ""),
        (ok_ng, ".", "ok_ng:ROOT"),
        (ok_ng, "NG", "ok_ng:ROOT"),
        (ok_ng, "masks", "ok_ng:ROOT"),
    ],
)
def test_parts_of_data_sets_with_defects_or_masks_are_refused(tmp_path, make, part, use):
    root = make(tmp_path / "product")
    assert f"use {use.replace('ROOT', str(root))}" in refusal(root / part) or not use


@pytest.mark.parametrize(
    ("make", "part", "count"),
    [(mvtec_ad, "train/good", 20), (mvtec_ad, "train", 20), (mvtec_ad, "test/good", 1),
     (btad, "test/ok", 1), (visa, "Data/Images/Normal", 5), (ok_ng, "OK", 10)],
)  # fmt: skip
def test_the_good_parts_of_data_sets_are_read(tmp_path, make, part, count):
    accepted(make(tmp_path / "product") / part, count)


def test_a_kind_of_defect_of_any_name_beside_good_test_images(tmp_path):
    photos(tmp_path, "test/good/0.png", "test/faulty imprint/1.png")
    assert "faulty imprint/" in refusal(tmp_path / "test/faulty imprint")
    assert "good/" in refusal(tmp_path / "test")


def test_unsorted_images_beside_good_and_defective_ones(tmp_path):
    photos(tmp_path, "OK/0.png", "NG/1.png", "unsorted/2.png", "train/3.png")
    assert "NG/ and a folder of good images beside it" in refusal(tmp_path / "unsorted")
    accepted(tmp_path / "OK", 1)
    accepted(tmp_path / "train", 1)


def test_images_with_masks_beside_them(tmp_path):
    photos(tmp_path, "images/0.png", "images/1.png")
    write_mask(tmp_path / "masks/1.png")
    assert "masks of its images in masks/ beside it" in refusal(tmp_path / "images")
    (tmp_path / "masks/1.png").rename(tmp_path / "masks/other.png")
    accepted(tmp_path / "images", 2)


@pytest.mark.parametrize("ending", ["_mask.png", "_GT.bmp", ".bmp"])
def test_masks_between_the_images(tmp_path, ending):
    photos(tmp_path, "0.png", "1.png", "2.png")
    write_mask(tmp_path / f"1{ending}")
    assert f"1{ending}, the mask of another image" in refusal(tmp_path)


def test_empty_masks_between_the_images_are_known_by_their_ending(tmp_path):
    photos(tmp_path, *(f"kos{part:02}/Part0.jpg" for part in range(3)))
    for part in range(3):
        write_mask(tmp_path / f"kos{part:02}/Part0_label.bmp", value=0)
    assert "kos00/Part0_label.bmp, the mask of another image" in refusal(tmp_path)


def test_opposite_folders_of_which_one_may_hold_defects(tmp_path):
    photos(tmp_path, "Positive/0.png", "Negative/1.png")
    assert "opposite folders Negative and Positive" in refusal(tmp_path)
    accepted(tmp_path / "Negative", 1)


def test_masks_alone_lossy_too(tmp_path):
    for number in range(4):
        write_mask(tmp_path / f"{number}.{'jpg' if number % 2 else 'png'}", corner=8 + number)
    assert "black and white only" in refusal(tmp_path)


def test_an_export_of_this_project(tmp_path):
    photos(tmp_path, "images/train/0.png", "images/test/1.png", "normal/2.png")
    content = {"to": "coco", "category": "nut", "version": "0001-abc", "digest": "ab"}
    (tmp_path / "export.json").write_text(json.dumps(content))
    for part in (tmp_path, tmp_path / "images", tmp_path / "images/test"):
        assert "export.json of an export to coco, which holds anomalies too" in refusal(part)
    accepted(tmp_path / "normal", 1)
    # Of other programs.
    (tmp_path / "export.json").write_text('{"to": "the customer"}')
    accepted(tmp_path / "images", 2)


# What looks similar and is fine.


@pytest.mark.parametrize(
    "names",
    [
        ("good_parts/0.png", "good_parts_2/0.png"),
        ("crack_free_tiles/0.png", "plain tiles/1.png"),
        ("line A/0.png", "line A/1.png", "line B/0.png", "line B/deep/0.png"),
        ("train/0.png", "test/0.png"),
        ("OK/0.png", "normal_test/1.png"),
        ("label_printer/0.png", "normal_map/0.png"),
        ("masks/0.png", "masks/1.png"),
        ("瓶子/0.png", "螺丝/1.png"),
    ],
)
def test_ordinary_folders_are_not_refused(tmp_path, names):
    accepted(photos(tmp_path / "product", *names), len(names))


def test_images_of_one_colour_and_unreadable_ones_are_no_masks(tmp_path):
    write_images(tmp_path, *(f"{number}.png" for number in range(6)))
    (tmp_path / "broken.png").write_bytes(b"")
    accepted(tmp_path, 7)


def test_the_folder_above_says_nothing(tmp_path):
    accepted(photos(tmp_path / "anomaly detection/defects/bottle", "0.png"), 1)
    photo(tmp_path / "anomaly detection/defects/labels/0.png")
    accepted(tmp_path / "anomaly detection/defects/bottle", 1)


def test_real_folders(shared, tmp_path):
    bottle = shared / "data" / "mvtec_ad" / "bottle"
    if not bottle.is_dir():
        pytest.skip("no MVTec AD in the shared folder")
    accepted(bottle / "train" / "good", 209)
    accepted(bottle / "test" / "good", 20)
    assert re.search(r"use mvtec_ad:\S+/bottle;", refusal(bottle / "test"))
    # Out of its tree, only the pixels are left to tell.
    shutil.copytree(bottle / "ground_truth" / "broken_large", tmp_path / "pieces")
    assert "black and white only" in refusal(tmp_path / "pieces")
