"""`parts` from training to prediction: thresholds, reasons in every output, pictures, resumption.

The networks of the machine are replaced by the toy product's finder; all else is real.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_rules as toy
from PIL import Image
from small_results import image_result, small_version

from detectors.evaluation.evaluate import evaluate
from detectors.evaluation.onnx_export import export
from detectors.evaluation.own_folders import OwnFolders
from detectors.evaluation.predict import predict
from detectors.models.parts import model
from detectors.registry import configure
from detectors.training.job import TrainJob
from detectors.training.trainer import train
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.models.trunks import trunk_of
from pipeline.models.weights import store


class ToyMachine:
    find = toy.ToyFinder()
    trunk = trunk_of("bundled-teacher", store.require("bundled-teacher"))
    digests = {"proposals": "a" * 64}  # noqa: RUF012


@pytest.fixture(scope="module", autouse=True)
def toy_machine():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "MachineFinder", ToyMachine)
        # Flat boards need few patches.
        patch.setattr("detectors.models.parts.unexplained.BANK", 200)
        patch.setattr("detectors.models.parts.surfaces.BANK", 200)
        patch.setattr("detectors.models.parts.surfaces.ENLARGED", 64)
        yield


def lacking(seed: int) -> np.ndarray:
    board = toy.board(seed)
    toy.wipe(board, 32, 64)
    return board


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Twelve boards, two of them for validation, whose samples lack a disc."""
    results = []
    for number in range(12):
        result = image_result(number, (toy.SIZE, toy.SIZE))
        board, edited = toy.board(number), lacking(number)
        change_HW = (board != edited).any(2)
        attempts = [
            attempt
            if attempt.sample is None
            else replace(
                attempt,
                sample=replace(attempt.sample, pixels_HW3=edited, change_HW=change_HW),
            )
            for attempt in result.attempts
        ]
        results.append(replace(result, pixels_HW3=board, attempts=tuple(attempts)))
    return small_version(tmp_path_factory.mktemp("store"), results=results, tests=0)


@pytest.fixture(scope="module")
def checkpoint(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on these boards."""
    recipe = configure("parts", "cpu", {"size": toy.SIZE})
    folder = tmp_path_factory.mktemp("runs") / "parts"
    job = TrainJob(recipe=recipe, version=version.dir, out=folder, board=False, device="cpu")
    report = train(job)
    # Samples without a disc are found, whatever else they are labelled.
    assert report.validation["auroc"] == 1
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, pixels in (("good", toy.board(100)), ("lacks", lacking(101))):
        # Twice as large and as sharp: normals that are all alike forgive no other surface.
        pixels = pixels.repeat(2, 0).repeat(2, 1)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def test_predictions_have_reasons_and_pictures(checkpoint, images):
    out, table = images / "why", images / "scores.csv"
    good, lacks = predict(
        checkpoint, [images], explain=out, csv=table, threshold="threshold_5"
    ).images
    assert (good.verdict, good.reasons) == ("normal", ())
    assert lacks.verdict == "anomalous"
    (reason,) = [one for one in lacks.reasons if one["rule"].endswith(".count")]
    assert (reason["expected"], reason["found"]) == ("3", "2")
    # Shares of the image, whatever its size.
    ((x0, y0, x1, y1),) = reason["missing"]
    assert x0 < 32 / toy.SIZE < x1
    assert y0 < 64 / toy.SIZE < y1
    with table.open() as file:
        rows = {Path(row["path"]).stem: row["reasons"] for row in csv.DictReader(file)}
    assert rows["good"] == ""
    assert "count: expected 3, found 2" in rows["lacks"]
    with Image.open(out / lacks.picture) as picture:
        assert picture.width == 640
    json.dumps(predict(checkpoint, [images / "lacks.png"]).to_json())
    # The pictures are not scored by the next run.
    assert len(predict(checkpoint, [images], explain=out).images) == 2


def test_an_interrupted_run_keeps_reasons_and_pictures(checkpoint, images, monkeypatch):
    out, table = images / "why", images / "scores.csv"
    files = [images / "good.png", images / "lacks.png"]
    # Stops where the table would be written.
    with monkeypatch.context() as patch:
        patch.setattr("detectors.evaluation.predict.write_atomic", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(checkpoint, files, explain=out, csv=table)
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    again = predict(checkpoint, files, explain=out, csv=table)
    # Nothing was done twice, and nothing differs from a run without an interruption.
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written
    whole = predict(checkpoint, files, explain=out)
    assert again.images == whole.images


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_evaluation_has_reasons(checkpoint, images):
    for name in ("good", "lacks"):
        (images / name).mkdir()
        (images / f"{name}.png").rename(images / name / f"{name}.png")
    out = images / "report"
    evaluate(checkpoint, OwnFolders((images / "good",), (images / "lacks",)), out)
    assert "count: expected 3, found 2" in (out / "report.html").read_text()
    assert "count: expected 3, found 2" in (out / "images.csv").read_text()


def test_it_is_no_graph(checkpoint, tmp_path):
    with pytest.raises(UserError, match="parts cannot be exported"):
        export(checkpoint, tmp_path / "parts.onnx")


@pytest.mark.parametrize(
    ("beside", "steps"),
    [
        ("nearest", 0),
        ("efficientad", 2),
        pytest.param("semrec", 2, marks=pytest.mark.slow),
        pytest.param("glcf", 2, marks=pytest.mark.slow),
        pytest.param("destseg", 2, marks=pytest.mark.slow),
    ],
)
def test_beside_any_other_detector_it_trains_that_one(beside, steps, version, images, tmp_path):
    changes = {"beside": beside, "size": toy.SIZE} | ({"steps": steps} if steps else {})
    recipe = configure("parts", "tiny", changes)
    assert recipe.settings.trains() == bool(steps)
    folder = tmp_path / "run"
    report = train(
        TrainJob(recipe=recipe, version=version.dir, out=folder, board=False, device="cpu")
    )
    assert report.steps == steps
    # Read back from its card, with the reasons of `parts`.
    good, lacks = predict(folder, [images], threshold="threshold_5").images
    assert lacks.score > good.score
    assert any(one["rule"].endswith(".count") for one in lacks.reasons)


def test_settings_of_the_detector_beside_are_its_own():
    changes = {"beside": "nearest", "beside_settings": {"bank": 7}, "size": 64}
    settings = configure("parts", "tiny", changes).settings
    assert settings.beside_settings["bank"] == 7
    assert settings.beside_settings["size"] == 64
    with pytest.raises(UserError, match="nearest has no setting 'magic'"):
        configure("parts", "tiny", {"beside": "nearest", "beside_settings": {"magic": 1}})
    # A detector without steps takes none, nor does `parts` beside it.
    with pytest.raises(UserError, match=r"trains no network.*steps"):
        configure("parts", "tiny", {"beside": "nearest", "steps": 3})
