"""docs/detectors.md: its commands and programs run in order, with short trainings."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_results import small_version

from detectors.evaluation.predict import predict
from detectors.registry import DETECTORS
from flows import reference

QUICK = ["--profile", "tiny", "--size", "64", "--steps", "2", "--device", "cpu"]
PLACES = {"out/store/tray/0001-*", "out/runs/tray", "out/scenes/tray/test"}


@pytest.fixture(scope="module")
def page(root) -> str:
    return (root / "docs" / "detectors.md").read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with the version and the images that the page uses."""
    small_version(tmp_path / "out" / "store", images=10, tests=6, size=(64, 64))
    images = tmp_path / "out" / "scenes" / "tray" / "test" / "good"
    images.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(images / "000.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_runs(anomalysmith, page, workplace, capsys):
    assert all(place in page for place in PLACES)
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert len(lines) >= 6
    for line in lines:
        program, command, *words = shlex.split(line)
        assert program == "anomalysmith"
        words = [str(next(workplace.glob(word))) if "*" in word else word for word in words]
        run = anomalysmith(command, *words, *(QUICK if command == "train" else []))
        assert run.code == 0, f"{line}\n{run.err}"
    done: dict[str, Any] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, "docs/detectors.md", "exec"), done)
    assert "000.png" in capsys.readouterr().out
    # The recipe for ONNX and the one for PyTorch, both from the file to the verdict.
    (image,) = predict(Path("out/runs/tray"), [Path("out/scenes")], precision="fp32").images
    score, verdict = done["verdict"](image.path)
    assert score == pytest.approx(image.score, rel=1e-3)
    assert verdict == image.verdict
    done["thresholds"].clear()
    assert done["verdict"](image.path) == (score, "unknown")


def test_every_detector_and_command_is_on_the_page(page):
    rows = re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE)
    assert set(DETECTORS) <= set(rows)
    known = {name for name, _ in reference.commands()}
    named = set(re.findall(r"anomalysmith ([a-z-]+(?: (?:pull|list))?)", page))
    assert named <= known
    assert {"train", "evaluate", "predict", "export-onnx", "detectors", "distill-teacher"} <= named


def test_every_deployment_on_the_page_exists(root):
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    flows = {
        "generate_anomalies", "train_detectors", "evaluate_detectors", "compare_detectors",
    }  # fmt: skip
    known = {
        f"{d['entrypoint'].partition(':')[2].replace('_', '-')}/{d['name']}" for d in deployments
    }
    text = (root / "docs" / "prefect.md").read_text()
    pattern = "|".join(flow.replace("_", "-") for flow in flows)
    named = set(re.findall(rf"(?:{pattern})/[a-z]+", text))
    assert named
    assert named <= known
