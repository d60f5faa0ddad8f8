"""Prediction: a readable file gets the score of the same stored image; others are reported."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluations import AD_TYPES, photographs, tiny_known, trained, version_of

from detectors.evaluation.evaluate import evaluate
from detectors.evaluation.predict import Predictions, find_images, predict
from detectors.evaluation.results import THRESHOLDS
from detectors.scoring import resize_maps
from detectors.training.checkpoint import load
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.imaging.decode import load_image

CPU = {"device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with tiny_known():
        yield


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return version_of(tmp_path_factory.mktemp("store"), AD_TYPES)


@pytest.fixture(scope="module")
def checkpoint(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(version, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The test images as PNG files."""
    home = tmp_path / "camera"
    home.mkdir()
    for number, image in enumerate(photographs()):
        Image.fromarray(image.pixels_HW3).save(home / f"{number:03d}.png")
    return home


def test_a_file_gets_the_score_of_the_same_image_in_a_version(checkpoint, version, folder):
    found = predict(checkpoint, [folder], **CPU)
    report = evaluate(checkpoint, version, **CPU)
    assert [Path(one.path).name for one in found.images] == [f"{n:03d}.png" for n in range(10)]
    for one, row in zip(found.images, report.rows, strict=True):
        assert one.score == pytest.approx(row.score, rel=1e-5)
        assert one.over == row.over
        assert one.verdict == ("anomalous" if row.over["threshold_1"] else "normal")
    assert not found.failures


def test_any_size_and_mode_is_preprocessed_like_the_version(checkpoint, tmp_path):
    rng = np.random.default_rng(3)
    grey = rng.integers(0, 256, (150, 90), np.uint8)
    images = {
        "grey.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(grey.astype(np.uint16) << 8),
        "colour.webp": Image.fromarray(np.dstack([grey] * 3)),
        "palette.png": Image.fromarray(grey).convert("P"),
        "clear.png": Image.fromarray(np.dstack([grey] * 3 + [grey])),
    }
    detector = load(checkpoint, **CPU).detector
    for name, image in images.items():
        image.save(tmp_path / name, lossless=True)
        (one,) = predict(checkpoint, [tmp_path / name], **CPU).images
        pixels = torch.from_numpy(load_image(tmp_path / name, (64, 64))).permute(2, 0, 1)[None]
        with torch.inference_mode():
            assert one.score == pytest.approx(detector(pixels).image_B.item(), rel=1e-5)


def test_unreadable_files_are_reported_and_the_others_scored(checkpoint, folder):
    (folder / "002.png").write_bytes((folder / "002.png").read_bytes()[:200])
    (folder / "005.png").write_bytes(b"")
    Image.new("RGB", (4, 4)).save(folder / "006.png")
    found = predict(checkpoint, [folder], batch_size=3, **CPU)
    assert [Path(path).name for path in found.failures] == ["002.png", "005.png", "006.png"]
    assert len(found.images) == 7
    assert "zero bytes" in found.failures[str(folder / "005.png")]
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [bool(row["error"]) for row in table] == [False] * 7 + [True] * 3
    content = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(content["failures"]) == 3


def test_all_files_may_be_unreadable(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    found = predict(checkpoint, [tmp_path], **CPU)
    assert (found.images, len(found.failures)) == ((), 1)


def test_maps_are_written_at_the_size_of_the_image(checkpoint, tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (100, 170, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "part.png")
    found = predict(checkpoint, [tmp_path / "part.png"], tmp_path / "maps", **CPU)
    (one,) = found.images
    with Image.open(tmp_path / "maps" / one.map) as image:
        grey = np.asarray(image)
    assert (grey.shape, grey.dtype) == ((100, 170), np.uint16)
    stored = torch.from_numpy(load_image(tmp_path / "part.png", (64, 64))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        map_ = resize_maps(load(checkpoint, **CPU).detector(stored).maps_BHW, (100, 170))[0].numpy()
    back = one.low + grey / 65535 * (one.high - one.low)
    np.testing.assert_allclose(back, map_, atol=(one.high - one.low) / 60000)
    with Image.open(tmp_path / "maps" / one.overlay) as image:
        assert (image.size, image.mode) == ((170, 100), "RGB")
    content = json.loads((tmp_path / "maps" / "maps.json").read_text())
    assert content["images"][0]["map"] == one.map
    assert content["maps"]["heat"]["low"] == found.card.calibration.heat[0]


def test_files_of_the_same_name_get_separate_maps(checkpoint, tmp_path):
    image = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    names = ["a/good/0.png", "b/good/0.png", "b/good/0.bmp", "b_good/0.png", "b/good/0.PNG"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    found = predict(checkpoint, [tmp_path / name for name in names], tmp_path / "maps", **CPU)
    files = [one.map for one in found.images] + [one.overlay for one in found.images]
    assert len({name.lower() for name in files}) == 10
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {*files, "maps.json"}


def test_folders_are_searched_and_a_file_counts_once(folder):
    (folder / "deep").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "deep" / "x.jpg")
    (folder / "notes.txt").write_text("no image")
    found = list(find_images([folder / "003.png", folder]))
    assert len(found) == len(set(found)) == 11
    assert found[0].name == "003.png"


def test_wrong_paths_and_thresholds_are_user_errors(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        predict(checkpoint, [tmp_path / "gone.png"], **CPU)
    with pytest.raises(UserError, match="no image to score"):
        predict(checkpoint, [tmp_path], **CPU)
    with pytest.raises(UserError, match="a threshold is one of"):
        predict(checkpoint, [tmp_path], threshold="threshold_2", **CPU)


def test_the_verdict_follows_the_threshold_that_was_named(checkpoint, folder):
    for name in THRESHOLDS:
        found = predict(checkpoint, [folder], threshold=name, **CPU)
        limit = getattr(found.card.calibration, name)
        for one in found.images:
            assert one.verdict == ("anomalous" if one.score >= limit else "normal")
        assert found.to_json()["verdict_by"] == name


def test_without_thresholds_there_is_a_score_and_no_verdict(checkpoint, folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    card = json.loads((checkpoint / "checkpoint.json").read_text())
    card["calibration"] = {"notes": {"threshold_1": "the version has no validation normals"}}
    (copy / "checkpoint.json").write_text(json.dumps(card))
    (copy / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    found: Predictions = predict(copy, [folder], tmp_path / "maps", **CPU)
    assert {one.verdict for one in found.images} == {"unknown"}
    assert "no validation normals" in found.notes["verdict"]
    # The scale is that of the first map.
    assert found.heat is not None
    assert found.to_json()["verdict_by"] is None
