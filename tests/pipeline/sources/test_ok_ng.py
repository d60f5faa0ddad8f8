"""Folders of good and defective images: found by name or by the manifest, with or without masks."""

from pathlib import Path

import pytest
from small_sources import btad, ok_ng, visa, write_image, write_images, write_mask

from pipeline.errors import SourceError
from pipeline.sources.ground_truth import load_test
from pipeline.sources.layouts.registry import guess_layout
from pipeline.sources.listing import SourceListing, read_source
from pipeline.sources.options import SourceOptions


def sides(listing: SourceListing) -> dict[str, list[str]]:
    """`split defect` -> names of the images."""
    found: dict[str, list[str]] = {}
    for entry in listing.entries:
        found.setdefault(f"{entry.split} {entry.defect}", []).append(entry.name)
    return found


def masks(listing: SourceListing) -> dict[str, str]:
    """Name of an image -> its mask, relative to the root."""
    return {
        entry.name: entry.masks[0].relative_to(listing.root).as_posix()
        for entry in listing.entries
        if entry.masks
    }


def test_good_and_defective_folders_with_kinds_of_defects_and_a_mask(tmp_path):
    listing = read_source("ok_ng", ok_ng(tmp_path), "p")
    found = sides(listing)
    assert set(found) == {"train good", "test good", "test dent", "test scratch"}
    # scratch/0 has a mask; dent/0 of the same name has none.
    assert masks(listing) == {"NG/scratch/0.png": "masks/scratch/0_mask.png"}
    missing, held_out = listing.notes
    assert held_out.startswith("2 of 10 good images are held out for the test")
    assert missing.startswith("2 of 3 defective test images have no mask")


def test_the_same_good_images_are_held_out_whatever_else_is_there(tmp_path):
    root = ok_ng(tmp_path)
    before = set(sides(read_source("ok_ng", root, "p"))["test good"])
    write_images(root, "NG/dent/9.png", "OK/10.png")
    after = set(sides(read_source("ok_ng", root, "p"))["test good"])
    assert len(before) == len(after) == 2
    assert before & after


def test_the_tree_of_anomalib(tmp_path):
    write_images(tmp_path, "normal/0.png", "normal_test/1.png", "abnormal/2.png")
    write_mask(tmp_path / "mask/2.png")
    listing = read_source("ok_ng", tmp_path, "p")
    assert sides(listing) == {
        "train good": ["normal/0.png"],
        "test good": ["normal_test/1.png"],
        "test abnormal": ["abnormal/2.png"],
    }
    assert masks(listing) == {"abnormal/2.png": "mask/2.png"}
    assert not listing.notes


def test_folders_that_the_manifest_names(tmp_path):
    write_images(tmp_path, "series 7/0.png", "series 8/1.png", "returns/a/2.png", "lab/3.png")
    write_mask(tmp_path / "drawn/3.bmp")
    assert guess_layout(tmp_path) is None
    with pytest.raises(SourceError, match="a manifest names others: normal_dir, abnormal_dir"):
        read_source("ok_ng", tmp_path, "p")
    options = SourceOptions(
        normal_dir="series 7", normal_test_dir="series 8", abnormal_dir=("returns", "lab"),
        mask_dir="drawn",
    )  # fmt: skip
    listing = read_source("ok_ng", tmp_path, "p", options=options)
    assert sides(listing) == {
        "train good": ["series 7/0.png"],
        "test good": ["series 8/1.png"],
        "test a": ["returns/a/2.png"],
        "test lab": ["lab/3.png"],
    }
    assert masks(listing) == {"lab/3.png": "drawn/3.bmp"}
    for wrong in ("gone", "../elsewhere"):
        with pytest.raises(SourceError, match=f"the folder {wrong} of normal_dir below it"):
            read_source("ok_ng", tmp_path, "p", options=SourceOptions(normal_dir=wrong))


def test_train_and_test_folders_as_of_castings(tmp_path):
    write_images(tmp_path, "train/ok_front/0.png", "train/def_front/1.png")
    write_images(tmp_path, "test/ok_front/2.png", "test/def_front/3.png", "test/bubble/4.png")
    listing = read_source("ok_ng", tmp_path, "p")
    assert sides(listing) == {
        "train good": ["train/ok_front/0.png"],
        "test good": ["test/ok_front/2.png"],
        "test bubble": ["test/bubble/4.png"],
        "test def_front": ["test/def_front/3.png"],
    }
    assert "train/def_front: not read, as training takes good images only" in listing.notes


def test_a_folder_that_is_named_twice_counts_once_and_has_one_meaning(tmp_path):
    write_images(tmp_path, "a/0.png", "a/1.png", "b/2.png")
    twice = SourceOptions(normal_dir=("a", "a/"), abnormal_dir="b")
    found = sides(read_source("ok_ng", tmp_path, "p", options=twice))
    assert sorted(found["train good"] + found["test good"]) == ["a/0.png", "a/1.png"]
    both = SourceOptions(normal_dir="a", abnormal_dir=("a", "b"))
    with pytest.raises(SourceError, match="one thing each; saw a under two of normal_dir, "):
        read_source("ok_ng", tmp_path, "p", options=both)


def test_folders_below_images_of_a_split(tmp_path):
    write_images(tmp_path, "train/images/0.png", "test/images/OK/1.png", "test/images/NG/2.png")
    assert guess_layout(tmp_path) == "ok_ng"
    assert sides(read_source("ok_ng", tmp_path, "p")) == {
        "train good": ["train/images/0.png"],
        "test good": ["test/images/OK/1.png"],
        "test NG": ["test/images/NG/2.png"],
    }


def test_folders_below_images_beside_those_of_masks(tmp_path):
    write_images(tmp_path, "Images/good/0.png", "Images/good/1.png", "Images/bad/0.png")
    write_mask(tmp_path / "Masks/bad/0.png")
    assert guess_layout(tmp_path) == "ok_ng"
    listing = read_source("ok_ng", tmp_path, "p")
    assert set(sides(listing)) == {"train good", "test good", "test bad"}
    assert masks(listing) == {"Images/bad/0.png": "Masks/bad/0.png"}
    # Two products are two categories.
    write_images(tmp_path / "two", "bolt/OK/0.png", "bolt/NG/0.png", "nut/OK/0.png", "nut/NG/0.png")
    assert guess_layout(tmp_path / "two") is None


def test_images_of_which_nothing_says_what_they_are_are_left_out_and_told(tmp_path):
    write_images(tmp_path, "train/0.png", "test/OK/1.png", "test/NG/2.png", "test/3.png", "4.png")
    (tmp_path / "data").symlink_to(tmp_path)
    listing = read_source("ok_ng", tmp_path, "p")
    assert sides(listing) == {
        "train good": ["train/0.png"],
        "test good": ["test/OK/1.png"],
        "test NG": ["test/NG/2.png"],
    }
    assert any(note.startswith("2 images in no folder are not read") for note in listing.notes)


def test_a_defect_folder_beside_loose_good_images(tmp_path):
    write_images(tmp_path, "0.png", "1.png", "2.png", "NG/3.png", "notes/4.png")
    write_mask(tmp_path / "NG/3-MASK.PNG")
    listing = read_source("ok_ng", tmp_path, "p")
    assert len(sides(listing)["train good"]) == 2
    assert masks(listing) == {"NG/3.png": "NG/3-MASK.PNG"}
    assert any("not read" in note and "notes" in note for note in listing.notes)


@pytest.mark.parametrize(
    "mask", ["0.png", "0_mask.PNG", "0_GT.bmp", "0-label.tif", "0.seg.webp", "0_Maske.jpg"]
)
def test_masks_are_found_in_any_format_and_with_any_ending(tmp_path, mask):
    write_images(tmp_path, "OK/0.png", "OK/1.png", "NG/0.JPG")
    write_mask(tmp_path / "Ground_Truth" / mask)
    assert masks(read_source("ok_ng", tmp_path, "p")) == {"NG/0.JPG": f"Ground_Truth/{mask}"}


def test_names_in_another_unicode_form_are_the_same(tmp_path):
    # As written by a Mac, and as typed.
    write_images(tmp_path, "OK/0.png", "OK/1.png", "NG/Ko\u0308ln.png")
    write_mask(tmp_path / "masks/K\u00f6ln_mask.png")
    assert len(masks(read_source("ok_ng", tmp_path, "p"))) == 1


def test_synonyms_of_good_in_the_test_split_of_mvtecs_tree(tmp_path):
    write_images(tmp_path, "train/good/0.png", "test/Good/0.png", "test/OK/1.png", "test/cut/2.png")
    write_mask(tmp_path / "Ground_Truth/CUT/2.bmp")
    listing = read_source("mvtec_ad", tmp_path, "p")
    assert sides(listing) == {
        "train good": ["train/good/0.png"],
        "test good": ["test/Good/0.png", "test/OK/1.png"],
        "test cut": ["test/cut/2.png"],
    }
    assert masks(listing) == {"test/cut/2.png": "Ground_Truth/CUT/2.bmp"}
    assert not listing.problems


def test_btad_mixes_bmp_and_png(tmp_path):
    listing = read_source("btad", btad(tmp_path), "p")
    assert {name: len(found) for name, found in sides(listing).items()} == {
        "train good": 2, "test good": 1, "test ko": 2,
    }  # fmt: skip
    assert masks(listing) == {
        "test/ko/0000.bmp": "ground_truth/ko/0000.png",
        "test/ko/0001.bmp": "ground_truth/ko/0001.bmp",
    }


def test_visa_is_split_by_its_table(tmp_path):
    root = visa(tmp_path)
    listing = read_source("visa", root, "p")
    assert {name: len(found) for name, found in sides(listing).items()} == {
        "train good": 4, "test good": 1, "test anomaly": 1,
    }  # fmt: skip
    assert masks(listing) == {"Data/Images/Anomaly/000.JPG": "Data/Masks/Anomaly/000.png"}
    # Its masks hold small numbers.
    test = load_test(listing.entries[-1], (24, 32), listing.defects_config)
    assert (test.values_K.tolist(), int(test.masks_KHW.sum())) == ([255], 64)
    table = tmp_path / "split_csv/1cls.csv"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines, "candle,train,normal,../secret.png,"]))
    write_image(tmp_path.parent / "secret.png")
    (problem,) = read_source("visa", root, "p").problems
    assert problem.name == "../secret.png"
    # An image of the training again, as one of the test: it would be in both.
    again = "candle,test,normal,candle/Data/Images/Normal/0000.JPG,"
    table.write_text("\n".join([*lines, again]))
    listing = read_source("visa", root, "p")
    assert len(sides(listing)["test good"]) == 1
    assert listing.problems[0].reason.startswith("twice in split_csv/1cls.csv")
    table.write_text("\n".join([*lines, again.replace("normal", "Normal")]))
    with pytest.raises(SourceError, match="normal or anomaly as label, got 'Normal'"):
        read_source("visa", root, "p")
    table.write_text("\n".join(["object,split,label,image", *lines[1:]]))
    with pytest.raises(SourceError, match="expected the columns image,label,mask,object,split"):
        read_source("visa", root, "p")


def test_a_test_split_without_good_images_is_said(tmp_path):
    write_images(tmp_path, "train/good/0.png", "test/cut/0.png", "test/cut/1.png")
    note = read_source("mvtec_ad", tmp_path, "p").notes[-1]
    assert note.startswith("NO GOOD TEST IMAGE: all 2 are defective (cut)")
    Path(tmp_path / "test/cut").rename(tmp_path / "test/i.O.")
    note = read_source("mvtec_ad", tmp_path, "p").notes[-1]
    assert note.startswith("no defective test image: all 2 are good")
