"""`train`, `evaluate`, `predict`, `export-onnx` and `detectors` as their users see them.

The detector of most tests is `nearest`, which trains no step: what is tested is what the commands
say, where they stop, and how they go on. Whether a training is right is other tests' business.
"""

import csv
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from small_evaluations import version_of
from small_results import small_version

from detectors.registry import DETECTORS
from flows.commands.progress_bars import StoppableBar
from pipeline.dataset.version import Version

SMALL = ("--profile", "tiny", "--size", "64", "--device", "cpu", "--precision", "fp32")
NEAREST = ("train", "--detector", "nearest", *SMALL, "--set", "bank=64")
STUDENT = ("train", "--detector", "efficientad", *SMALL)


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Ten images of 64 px, two of them held out, with their samples; six real test images."""
    store = tmp_path_factory.mktemp("store")
    return small_version(store, images=10, tests=6, size=(64, 64))


@pytest.fixture(scope="module")
def checkpoint(version, tmp_path_factory) -> Path:
    """A trained detector, made by the program in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "nearest"
    words = [*NEAREST, "--version", version.dir, "--out", out]
    program = [sys.executable, "-m", "flows.cli", *map(str, words)]
    subprocess.run(program, check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return out


def test_train_reports_what_the_contract_says(anomalysmith, version, tmp_path):
    words = (*NEAREST, "--version", version.dir, "--out", tmp_path / "run")
    run = anomalysmith(*words, "--json")
    assert run.code == 0, run.err
    assert {"checkpoint", "steps", "seconds", "validation"} <= run.json.keys()
    assert run.json["validation"]["normals"] == 2
    assert Path(run.json["checkpoint"], "model.safetensors").is_file()
    again = anomalysmith(*words)
    assert again.code == 0
    assert str(tmp_path / "run") in again.out
    assert "anomalysmith evaluate" in again.out


def test_another_training_in_the_same_folder_is_rejected(anomalysmith, version, checkpoint):
    words = (*NEAREST, "--version", version.dir, "--out", checkpoint)
    assert anomalysmith(*words).code == 0
    # A preview says the same, and not that it would be reused.
    for dry in ((), ("--dry-run",)):
        other = anomalysmith(*words, "--seed", 1, *dry)
        assert other.code == 2
        assert "seed is 0 there and 1 here" in other.err


def test_a_dry_run_resolves_everything_and_touches_nothing(anomalysmith, version, tmp_path):
    words = ("train", "--detector", "efficientad", "--version", version.dir, "--out", tmp_path)
    words = (*words, "--dry-run", "--steps", 5, "--set", "batch_size=3")
    tiny = anomalysmith(*words, "--profile", "tiny", "--json").json
    assert (tiny["schedule"]["steps"], tiny["schedule"]["batch_size"]) == (5, 3)
    assert tiny["splits"]["train"]["images"] == 8
    assert tiny["resumes"] == {"state": "nothing", "step": 0}
    assert Path(tiny["teacher"]["file"]).is_file()
    assert list(tmp_path.iterdir()) == []
    assert "8 images" in anomalysmith(*words).out


def test_a_dry_run_says_which_weights_are_missing(anomalysmith, version, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.models.weights.store.folders", lambda: (tmp_path,))
    words = ("train", "--detector", "nearest", "--version", version.dir, "--out", tmp_path / "o")
    shown = anomalysmith(*words, "--dry-run")
    assert shown.code == 0
    assert "missing" in shown.out
    rejected = anomalysmith(*words)
    assert rejected.code == 2
    assert "efficientnet-lite0" in rejected.err
    # What a training can do about it; it has no manifest.
    assert "another --profile" in rejected.err
    assert "--teacher" in rejected.err
    assert "manifest" not in rejected.err


def test_a_dry_run_knows_what_is_finished(anomalysmith, version, checkpoint):
    words = (*NEAREST, "--version", version.dir, "--out", checkpoint, "--dry-run")
    assert anomalysmith(*words, "--json").json["resumes"]["state"] == "finished"


def test_an_interrupted_training_goes_on_to_the_same_bytes(anomalysmith, version, tmp_path):
    words = (*STUDENT, "--version", version.dir, "--steps", 12)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert anomalysmith(*words, "--out", whole).code == 0
    program = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *map(str, words), "--out", str(cut)],
        stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert program.stderr is not None
    said = ""
    while "0/12" not in said:  # the bar is open: from here on an interrupt waits for a step's end
        said += program.stderr.read(1)
    program.send_signal(signal.SIGINT)
    said += program.stderr.read()
    assert program.wait() == 130, said
    assert "is kept" in said
    resumes = anomalysmith(*words, "--out", cut, "--dry-run", "--json").json["resumes"]
    assert resumes["state"] == "interrupted"
    assert 0 < resumes["step"] < 12
    assert anomalysmith(*words, "--out", cut).code == 0
    tensors = [(out / "model.safetensors").read_bytes() for out in (whole, cut)]
    assert tensors[0] == tensors[1]


def test_an_interrupt_before_the_first_state_says_so(anomalysmith, version, tmp_path, monkeypatch):
    def interrupt(*_: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(StoppableBar, "begin", interrupt)
    run = anomalysmith(*STUDENT, "--version", version.dir, "--out", tmp_path / "run")
    assert run.code == 130
    assert "starts over" in run.err


def test_evaluate_has_every_number_or_a_reason(anomalysmith, version, checkpoint, tmp_path):
    run = anomalysmith(
        "evaluate", "--checkpoint", checkpoint, "--version", version.dir, "--out", tmp_path,
        "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    promised = {
        "image_auroc", "image_ap", "image_f1", "precision_at_recall_90", "iap", "iap90",
        "pixel_auroc", "aupro", "spro",
    }  # fmt: skip
    assert promised | {"per_type", "notes"} <= run.json.keys()
    assert all(run.json[name] is not None or run.json["notes"][name] for name in promised)
    assert run.json["spro"] is None  # the version has no defects_config
    assert Path(run.json["report"]).is_file()
    shown = anomalysmith("evaluate", "--checkpoint", checkpoint, "--version", version.dir)
    assert f"{run.json['image_auroc']:.3f}" in shown.out
    assert "no sPRO up to 0.05: no defects_config.json" in shown.out
    assert "of 2, " in shown.out  # false alarms with their share and its interval


def test_evaluate_measures_on_folders_without_a_version(anomalysmith, checkpoint, tmp_path):
    rng = np.random.default_rng(0)
    for place in ("OK/0", "OK/1", "NG/cut/2", "NG/cut/3", "NG/cut/4"):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    words = ("evaluate", "--checkpoint", checkpoint)
    words = (*words, "--good", tmp_path / "OK", "--bad", tmp_path / "NG")
    shown = anomalysmith(*words)
    assert shown.code == 0, shown.err
    assert "2 good, 3 anomalous" in shown.out
    assert shown.out.count("have no mask") == 1
    assert "no instance AP, instance AP at 0.90, pixel AUROC" in shown.out
    for name in ("3", "4"):
        (tmp_path / "NG" / "cut" / f"{name}.png").write_bytes(b"not an image")
    run = anomalysmith(*words, "--json", "--out", tmp_path / "report")
    assert run.code == 3
    assert [row["name"] for row in run.json["failures"]] == ["NG/cut/3.png", "NG/cut/4.png"]
    (line,) = [line for line in run.err.splitlines() if "not scored" in line]
    assert "2 files: not an image" in line
    interval = run.json["thresholds"]["threshold_1"]["false_positive_interval"]
    assert 0 <= interval[0] < interval[1] <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--version VERSION_DIR, or --good DIR --bad DIR"),
        (("--good", "x"), "--good without --bad"),
        (("--bad", "x"), "--bad without --good"),
        (("--masks", "x"), "without --good"),
        (("--version", "v", "--good", "x", "--bad", "y"), "--version and --good"),
        (("--version", "v", "--masks", "x"), "--version and --masks"),
        (("--good", "x", "--bad", "y", "--original-size", "9x9"), "--original-size"),
        (("--version", "v", "--follow-links", "x"), "--follow-links"),
    ],
)
def test_evaluate_takes_a_version_or_folders(anomalysmith, words, said):
    run = anomalysmith("evaluate", "--checkpoint", "c", *words)
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert said in line


def test_without_good_test_images_evaluate_says_it_loudly(anomalysmith, checkpoint, tmp_path):
    version = version_of(tmp_path, [("cut", (255,))] * 3)
    run = anomalysmith("evaluate", "--checkpoint", checkpoint, "--version", version.dir)
    (line,) = [line for line in run.err.splitlines() if "NO GOOD IMAGE" in line]
    assert "--good DIR --bad DIR" in line
    assert "no image AUROC, image AP, best image F1" in run.out
    assert ": there is no good image" in run.out
    # Neither a dash nor a share of no images.
    assert "–\n" not in run.out
    assert "0 of 0" not in run.out


def test_train_advises_an_evaluation_that_has_something_to_measure(anomalysmith, tmp_path):
    version = small_version(tmp_path / "store", images=10, tests=0, size=(64, 64))
    run = anomalysmith(*NEAREST, "--version", version.dir, "--out", tmp_path / "run")
    assert f"evaluate --checkpoint {tmp_path / 'run'} --good DIR --bad DIR" in run.out
    assert "--version" not in run.out.partition("next")[2]


def test_predict_scores_what_it_can_and_names_the_rest(anomalysmith, checkpoint, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (64, 64)), ("b.png", (90, 120))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(photos / name)
    good = anomalysmith("predict", "--checkpoint", checkpoint, photos, "--json")
    assert good.code == 0, good.err
    scores = {Path(row["path"]).name: row["score"] for row in good.json["images"]}
    assert scores.keys() == {"a.png", "b.png"}
    (photos / "broken.png").write_bytes(b"not an image")
    run = anomalysmith(
        "predict", "--checkpoint", checkpoint, photos, "--csv", tmp_path / "scores.csv",
        "--maps", tmp_path / "maps",
    )  # fmt: skip
    assert run.code == 3
    assert "broken.png" in run.err
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    assert len(rows) == 3
    assert {Path(r["path"]).name: float(r["score"]) for r in rows[:2]} == pytest.approx(scores)
    with Image.open(tmp_path / "maps" / rows[1]["map"]) as image:
        assert image.size == (120, 90)


def test_export_onnx_writes_a_file_that_scores_alike(anomalysmith, checkpoint, tmp_path):
    photo = tmp_path / "a.png"
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(photo)
    words = ("--checkpoint", checkpoint, "--out", tmp_path / "d.onnx", "--json")
    exported = anomalysmith("export-onnx", *words)
    assert exported.code == 0, exported.err
    session = onnxruntime.InferenceSession(str(tmp_path / "d.onnx"))
    (score,) = session.run(["score"], {"images": pixels.transpose(2, 0, 1)[None]})[0]
    shown = anomalysmith("predict", "--checkpoint", checkpoint, photo, "--json").json
    assert score == pytest.approx(shown["images"][0]["score"], rel=1e-3)


def test_detectors_lists_them_and_their_settings(anomalysmith):
    rows = anomalysmith("detectors", "--json").json["detectors"]
    assert [row["name"] for row in rows] == list(DETECTORS)
    assert all(row["summary"] for row in rows)
    for name, entry in DETECTORS.items():
        settings = anomalysmith("detectors", name, "--json").json["settings"]
        kinds = (type(entry.paper[0]), type(entry.paper[1]))
        assert {row["key"] for row in settings} == {k for kind in kinds for k in kind.model_fields}
        assert [row["key"] for row in settings if not row["meaning"]] == []
    assert "nearest" in anomalysmith("detectors").out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("train", "--detector", "magic"), "no detector is called 'magic'"),
        (("train", "--detector", "nearest", "--profile", "huge"), "auto, paper, cpu, tiny"),
        (("train", "--detector", "nearest", "--set", "bank"), "KEY=VALUE"),
        (("train", "--detector", "nearest", "--set", "bnak=1"), "no setting 'bnak'"),
        (("train", "--detector", "nearest", "--set", "bank=many"), "bank"),
        (("train", "--detector", "nearest", "--set", "size=64", "--size", "64"), "both set it"),
        (("train", "--detector", "nearest", "--set", "bank=[1"), "expected JSON"),
        (("train", "--detector", "nearest", *SMALL, "--device", "gpu"), "cuda"),
        (("train", "--detector", "nearest", *SMALL, "--compile", "yes"), "compile"),
        (("train", "--detector", "nearest", *SMALL, "--teacher", "nowhere"), "nowhere"),
        (("train", "--detector", "efficientad", *SMALL, "--start", "nowhere"), "nowhere"),
    ],
)
def test_a_user_error_in_train_is_one_line(anomalysmith, version, tmp_path, words, said):
    run = anomalysmith(*words, "--version", version.dir, "--out", tmp_path / "run")
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert said in line
    assert not (tmp_path / "run" / "checkpoint.json").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "--checkpoint", "nowhere", "--version", "{version}"),
        ("evaluate", "--checkpoint", "{checkpoint}", "--version", "nowhere"),
        ("predict", "--checkpoint", "nowhere", "{checkpoint}/checkpoint.json"),
        ("predict", "--checkpoint", "{checkpoint}", "nowhere"),
        ("export-onnx", "--checkpoint", "nowhere", "--out", "x.onnx"),
    ],
)
def test_a_place_that_is_not_there_is_named(anomalysmith, version, checkpoint, words):
    known = {"version": version.dir, "checkpoint": checkpoint}
    run = anomalysmith(*(word.format(**known) for word in words))
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert "nowhere" in line


def test_a_damaged_checkpoint_is_exit_code_4(anomalysmith, version, checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    content = bytearray((copy / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "model.safetensors").write_bytes(content)
    run = anomalysmith("evaluate", "--checkpoint", copy, "--version", version.dir)
    assert run.code == 4
    assert "model.safetensors" in run.err


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        (
            "flows.cli",
            {"torch", "prefect", "pandas", "sklearn", "scipy", "h5py", "detectors.registry"},
        ),
        # What every training, and every fold of one, imports first: these would take six seconds.
        ("detectors.training.trainer", {"timm", "torchvision", "scipy", "segment_anything"}),
    ],
)
def test_start_without(module, heavy):
    probe = f"import sys, {module}\nprint(sorted({heavy!r} & set(sys.modules)))"
    run = [sys.executable, "-c", probe]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
