"""Prediction: a readable file gets the score of the same stored image; others are reported."""

import csv
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_evaluations import AD_TYPES, photographs, tiny_known, trained, version_of

from detectors.evaluation.evaluate import evaluate
from detectors.evaluation.image_paths import find_images
from detectors.evaluation.predict import Predictions, predict
from detectors.evaluation.results import THRESHOLDS
from detectors.scoring import resize_maps
from detectors.training.checkpoint import load
from detectors.training.progress import Watcher
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.imaging.decode import load_image
from pipeline.utils.files import locked_for_appending
from pipeline.utils.names import path_of

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
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="lie in an output folder; choose another"):
        find_images([tmp_path], [tmp_path])
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


# Names, links, interruptions and streams.


def test_a_name_of_any_bytes_is_scored_and_written(checkpoint, folder, tmp_path):
    (folder / "000.png").rename(folder / os.fsdecode(b"\xb2\xe2.png"))
    (folder / "001.png").rename(folder / "line\nbreak.png")
    (folder / os.fsdecode(b"cut\xb2.png")).write_bytes(b"")
    table, maps = tmp_path / "scores.csv", tmp_path / os.fsdecode(b"maps\xb2")
    found = predict(checkpoint, [folder], maps, csv=table, **CPU)
    rows = list(csv.DictReader(table.open(encoding="utf-8")))
    assert len(rows) == len(found.images) + 1 == 11
    names = {str(path_of(row["path"])) for row in rows}
    assert names == {str(path) for path in folder.iterdir()}
    assert all(str(folder) in row["path"] and "\n" not in row["path"] for row in rows)
    assert "zero bytes" in rows[-1]["error"]
    assert len(json.loads((maps / "maps.json").read_text("utf-8"))["images"]) == 10


class Killed(Exception):
    """In place of a signal."""


class KilledAfter(Watcher):
    """Ends a run after some images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.images = images

    def step(self, step: int, losses: Any) -> None:
        if step >= self.images:
            raise Killed


def test_a_killed_run_keeps_its_scores_and_ends_as_if_it_had_not_been(checkpoint, folder, tmp_path):
    whole = predict(checkpoint, [folder], tmp_path / "one", batch_size=2, **CPU)
    out, table = tmp_path / "two", tmp_path / "scores.csv"
    again = {"csv": table, "batch_size": 2, **CPU}
    with pytest.raises(Killed):
        predict(checkpoint, [folder], out, watcher=KilledAfter(6), **again)
    assert not table.exists()
    (part,) = tmp_path.glob("scores.csv.*.part")
    assert len(part.read_text().splitlines()) == 1 + 6
    # A power failure may leave half a row.
    part.write_bytes(part.read_bytes() + b"camera/007.png,0.1")
    # An image that was replaced meanwhile is scored again, and so is one without its map.
    Image.open(folder / "009.png").save(folder / "001.png")
    next(out.glob("*_002_heat.png")).unlink()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    found = predict(checkpoint, [folder], out, **again)
    after = {path: path.stat().st_mtime_ns for path in before}
    kept = {path.name.split("_")[-2] for path in before if before[path] == after[path]}
    assert kept == {"000", "003", "004", "005"}
    assert found.images[1].score == pytest.approx(found.images[9].score, rel=1e-5)
    assert [one.path for one in found.images] == [one.path for one in whole.images]
    same = [number for number in range(10) if number not in (1, 2)]
    assert [found.images[n] for n in same] == [whole.images[n] for n in same]
    assert table.read_text() == found.to_csv()
    assert not part.exists()


def test_an_unfinished_run_is_continued_by_one_process(checkpoint, folder, tmp_path):
    with pytest.raises(Killed):
        predict(checkpoint, [folder], csv=tmp_path / "a.csv", watcher=KilledAfter(1), **CPU)
    (part,) = tmp_path.glob("a.csv.*.part")
    with locked_for_appending(part), pytest.raises(UserError, match="another run is writing"):
        predict(checkpoint, [folder], csv=tmp_path / "a.csv", **CPU)


def test_rows_reach_a_stream_as_images_are_scored(checkpoint, folder):
    (folder / "003.png").write_bytes(b"")
    stream, seen = io.BytesIO(), []

    class Looking(Watcher):
        def step(self, step: int, losses: Any) -> None:
            seen.append(stream.getvalue().count(b"\n"))

    found = predict(checkpoint, [folder], stream=stream, batch_size=4, watcher=Looking(), **CPU)
    # The header, then the rows of each batch; the unreadable file comes at the end.
    assert seen == [4, 8, 10]
    assert stream.getvalue().decode() == found.to_csv()


def test_links_that_lead_out_are_failures_unless_allowed(checkpoint, folder, tmp_path):
    camera = tmp_path / "tracked"
    camera.mkdir()
    Image.open(folder / "000.png").save(camera / "000.png")
    (camera / "001.png").symlink_to(folder / "001.png")
    found = predict(checkpoint, [camera], **CPU)
    assert [Path(one.path).name for one in found.images] == ["000.png"]
    assert "leads out" in found.failures[str(camera / "001.png")]
    assert len(predict(checkpoint, [camera], links=folder, **CPU).images) == 2
    (camera / "000.png").unlink()
    with pytest.raises(UserError, match=f"--follow-links {folder}"):
        predict(checkpoint, [camera], **CPU)
