"""A test set from folders: types, masks by name, refused contradictions, masks in doubt."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_evaluations import AD_TYPES, photographs, tiny_known, trained, version_of

from detectors.evaluation.evaluate import evaluate
from detectors.evaluation.own_folders import OwnFolders, list_own
from detectors.evaluation.predict import predict
from pipeline.errors import UserError

CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("own")
    with tiny_known():
        yield trained(version_of(home, AD_TYPES), home / "checkpoint")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """The test images of a version as a user has them: OK/*, NG/DEFECT/*, masks/DEFECT/*."""
    for number, test in enumerate(photographs()):
        place = "OK" if test.defect == "good" else f"NG/{test.defect}"
        save(tmp_path / place / f"{number}.png", test.pixels_HW3)
        if test.defect != "good":
            save(tmp_path / "masks" / test.defect / f"{number}.BMP", test.masks_KHW.any(0))
    return tmp_path


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scale = 255 if pixels.dtype == np.bool_ else 1
    Image.fromarray((pixels * scale).astype(np.uint8)).save(path)


def named(home: Path, masks: bool = True) -> OwnFolders:
    return OwnFolders((home / "OK",), (home / "NG",), (home / "masks",) if masks else ())


def test_the_numbers_are_those_of_a_version_with_the_same_images(checkpoint, folders, tmp_path):
    version = version_of(tmp_path / "store", AD_TYPES)
    ours = evaluate(checkpoint, named(folders), **CPU).to_json()
    theirs = evaluate(checkpoint, version, **CPU).to_json()
    for key in ("image_auroc", "image_ap", "pixel_auroc", "aupro", "iap", "images", "good"):
        assert ours[key] == pytest.approx(theirs[key]), key
    assert ours["per_type"].keys() == {"broken", "cut"}
    assert ours["thresholds"] == theirs["thresholds"]
    assert ours["version"] is None
    assert ours["own_images"]["test"] == theirs["version"]["test"]


def test_the_scores_are_those_of_predict(checkpoint, folders):
    found = evaluate(checkpoint, named(folders), **CPU)
    by_name = {row.name: row.score for row in found.rows}
    shown = predict(checkpoint, [folders / "OK", folders / "NG"], **CPU)
    assert {Path(one.path).relative_to(folders).as_posix(): one.score for one in shown.images} == (
        pytest.approx(by_name)
    )


def test_without_masks_there_are_image_metrics_and_one_line(checkpoint, folders):
    found = evaluate(checkpoint, named(folders, masks=False), **CPU)
    content = found.to_json()
    assert content["image_auroc"] is not None
    assert content["pixel_auroc"] is None
    assert content["failures"] == []
    assert content["notes"]["left_out"].startswith("6 of 6 anomalous images have no mask")


def test_some_masks_may_be_missing_and_some_are_in_doubt(checkpoint, folders):
    masks = folders / "masks" / "cut"
    (folders / "masks" / "broken" / "0.BMP").unlink()
    save(masks / "7.BMP", np.ones((64, 64), np.bool_))
    save(masks / "8.BMP", np.zeros((64, 64), np.bool_))
    save(masks / "9.BMP", np.ones((32, 32), np.bool_))
    found = evaluate(checkpoint, named(folders), **CPU)
    doubts = {Path(doubt.name).stem: doubt for doubt in found.mask_doubts}
    assert doubts.keys() == {"7", "8", "9"}
    assert doubts["7"].share == 1.0
    assert "full" in doubts["7"].why
    assert "marks nothing" in doubts["8"].why
    assert "32 x 32" in doubts["9"].why
    assert found.notes["left_out"].startswith("3 of 6 anomalous images")
    assert found.result.pooled.anomalous == 6


def test_unreadable_images_are_failures_and_the_rest_is_measured(checkpoint, folders, tmp_path):
    (folders / "NG" / "cut" / "7.png").write_bytes(b"no image")
    found = evaluate(checkpoint, named(folders), tmp_path / "out", **CPU)
    assert list(found.failures) == ["NG/cut/7.png"]
    assert found.result.pooled.anomalous == 5
    assert found.to_json()["own_images"]["test"]["by_defect"] == {"broken": 3, "cut": 2, "good": 4}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not scored: " in page
    assert "no mask in the source" not in page


def test_a_good_test_set_alone_says_why_there_is_no_auroc(checkpoint, tmp_path):
    out = tmp_path / "out"
    version = version_of(tmp_path, [("cut", (255,))] * 3)
    evaluate(checkpoint, version, out, **CPU)
    for name in ("report.html", "report.md"):
        text = (out / name).read_text()
        sentence = "No Image AUROC, Image AP, Best F1, Precision at recall 0.9: there is no good"
        assert sentence in text, name
        assert "not defined" not in text
        assert "no good image" in text


@pytest.mark.parametrize(
    ("image", "mask", "fits"),
    [
        ("NG/a.jpg", "masks/a.png", True),
        ("NG/a.jpg", "masks/a_mask.tif", True),
        ("NG/A.JPG", "masks/a-GT.bmp", True),
        ("NG/cut/a.jpg", "masks/cut/a.png", True),
        ("NG/cut/a.jpg", "masks/a.png", True),
        ("NG/a.jpg", "masks/NG/a.png", True),
        ("NG/a.jpg", "masks/a/000.png", True),
        ("NG/\u00e9.jpg", "masks/e\u0301.png", True),
        ("NG/cut/a.jpg", "masks/bent/a.png", False),
        ("NG/a.jpg", "masks/ab.png", False),
    ],
)
def test_masks_are_found_by_name(tmp_path, image, mask, fits):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for number, name in enumerate(("OK/b.png", image, "NG/other.png", mask, "masks/other.png")):
        save(tmp_path / name, np.roll(noise, number))
    found = list_own(named(tmp_path))
    masks = {entry.path: entry.masks for entry in found.entries}
    assert masks[tmp_path / image] == ((tmp_path / mask,) if fits else ())
    assert ("masks_unused" in found.notes) == (not fits)


def test_regions_in_a_folder_per_image_are_masks_of_no_other_image(tmp_path):
    """The tree of MVTec LOCO: image 000 and the first region of every image are called alike."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    regions = ("000/000.png", "001/000.png", "001/001.png")
    images = ("OK/a.png", *(f"NG/logical/{name}.png" for name in ("000", "001", "002")))
    for number, name in enumerate((*images, *(f"masks/logical/{name}" for name in regions))):
        save(tmp_path / name, np.roll(noise, number))
    found = list_own(named(tmp_path))
    masks = {entry.path.stem: [path.name for path in entry.masks] for entry in found.entries}
    assert masks == {"a": [], "000": ["000.png"], "001": ["000.png", "001.png"], "002": []}


def test_a_sub_folder_names_the_type_and_the_bad_folder_that_of_the_others(tmp_path):
    for number, name in enumerate(("OK/a.png", "NG/b.png", "NG/deep/er/c.png")):
        save(tmp_path / name, np.full((20, 20, 3), number, np.uint8))
    found = list_own(named(tmp_path, masks=False))
    types = {entry.name: entry.defect for entry in found.entries}
    assert types == {"OK/a.png": "good", "NG/b.png": "NG", "NG/deep/er/c.png": "deep"}


@pytest.mark.parametrize(
    ("good", "bad", "masks", "said"),
    [
        ("OK", "nowhere", "", "no such folder"),
        ("OK/0.png", "NG", "", "is a file"),
        ("OK", "OK", "", "given twice, as good and bad"),
        (".", "NG", "", "lies in"),
        ("NG", "OK", "", "by its name it holds defective images"),
        ("empty", "NG", "", "no image in it that would be good"),
        ("OK", "NG", "OK", "as masks and as images"),
        ("OK", "both", "", "by its name it holds good images"),
        ("OK", "NG", "empty_masks", "no mask has the name"),
        ("OK", "copied", "", "are the same image, once good and once bad"),
    ],
)
def test_contradictions_are_refused(tmp_path, good, bad, masks, said):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    files = ("OK/0.png", "NG/1.png", "both/good/2.png", "both/cut/3.png", "empty_masks/z.png")
    for number, name in enumerate(files):
        save(tmp_path / name, np.roll(noise, number))
    save(tmp_path / "copied" / "0.png", noise)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=said):
        list_own(
            OwnFolders((tmp_path / good,), (tmp_path / bad,), (tmp_path / masks,) if masks else ())
        )


def test_folders_of_other_files_and_empty_images_contradict_nothing(tmp_path):
    for number, name in enumerate(("OK/a.png", "NG/b.png")):
        save(tmp_path / name, np.full((20, 20, 3), number, np.uint8))
        (tmp_path / name).with_name("empty.png").touch()
    (tmp_path / "OK" / "labels").mkdir()
    (tmp_path / "OK" / "labels" / "a.txt").touch()
    found = list_own(named(tmp_path, masks=False))
    assert len(found.entries) == 4
    assert not found.notes


def test_a_mask_that_fits_two_images_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for number, name in enumerate(("OK/b.png", "NG/cut/a.png", "NG/bent/a.png", "masks/a.png")):
        save(tmp_path / name, np.roll(noise, number))
    with pytest.raises(UserError, match="put masks into sub-folders"):
        list_own(named(tmp_path))


def test_links_are_followed_into_the_named_folder_only(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    for number, name in enumerate(("OK/a.png", "cache/b.png")):
        save(tmp_path / name, np.roll(noise, number))
    (tmp_path / "NG").mkdir()
    os.symlink(tmp_path / "cache" / "b.png", tmp_path / "NG" / "b.png")
    good, bad = (tmp_path / "OK",), (tmp_path / "NG",)
    with pytest.raises(UserError, match="--follow-links"):
        list_own(OwnFolders(good, bad))
    assert len(list_own(OwnFolders(good, bad, links=tmp_path / "cache")).entries) == 2
