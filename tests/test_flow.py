"""One whole flow in Prefect's own test server, and what must hold without one."""

import importlib
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from prefect import Flow

from flows import generate as flow_module
from flows.choices import Choices, settings_of
from flows.local import generate
from flows.summary import artifact_key
from flows.tasks import is_transient
from pipeline.errors import UserError
from pipeline.manifest import read_manifest
from pipeline.verify import verify


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Two photographs of a dark part on a bright ground."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "parts").mkdir()
    yy, xx = np.mgrid[:96, :96]
    for number in range(2):
        image_HW3 = np.random.default_rng(number).normal(205, 3, (96, 96, 3))
        image_HW3[np.hypot(xx - 40 - 8 * number, yy - 50) < 14] -= 140
        pixels_HW3 = image_HW3.clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels_HW3).save(folder / "parts" / f"{number}.png")
    (folder / "manifest.yaml").write_text(
        "image_size: 96\nmodels: {inpaint: {backend: telea}}\nedits: {per_image: 1}\n"
        "sources: {parts: {kind: folder, path: parts}}\n"
        "categories: {Round_Parts: {source: parts}}\n"
    )
    return folder / "manifest.yaml"


def test_the_flow_makes_what_the_command_line_makes(server, manifest, tmp_path):
    from prefect.artifacts import Artifact

    asked: dict[str, Any] = {"category": "Round_Parts", "manifest": str(manifest)}
    asked |= {"store": str(tmp_path / "flow"), "workers": 2, "batch_size": 1}
    (made,) = flow_module.generate_anomalies(**asked)
    local = generate(
        settings_of(Choices(manifest=manifest, store=tmp_path / "local"))[0], workers=1
    )
    assert made["digest"] == local.digest
    assert made["images"] == 2
    assert not made["cached"]
    assert verify(Path(made["version_dir"])).ok

    artifact = Artifact.get("anomalies-round-parts")
    assert artifact is not None
    assert made["digest"] in str(artifact.data)
    assert made["gallery"] in str(artifact.data)

    (again,) = flow_module.generate_anomalies(**asked)
    assert again["cached"]
    assert again["version_dir"] == made["version_dir"]


def test_a_users_mistake_fails_the_flow_and_is_not_tried_again(server, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        flow_module.generate_anomalies(source=f"folder:{tmp_path}/nowhere", store=str(tmp_path))


def test_only_what_may_pass_by_itself_is_tried_again():
    from prefect.states import Failed

    for error, again in (
        (OSError("disk"), True),
        (MemoryError(), True),
        (UserError("manifest"), False),
        (ValueError("bug"), False),
    ):
        assert is_transient(None, None, Failed(data=error)) is again


def test_a_child_forked_after_a_flow_has_run_ends_well(server, tmp_path):
    with pytest.raises(UserError):  # any run starts Prefect's services in this process
        flow_module.generate_anomalies(source=f"folder:{tmp_path}/nowhere", store=str(tmp_path))
    child = multiprocessing.get_context("fork").Process(target=len, args=("nothing",))
    child.start()
    child.join()
    assert child.exitcode == 0


def test_no_telemetry():
    from prefect.settings import get_current_settings

    assert not get_current_settings().server.analytics_enabled


def test_every_category_of_the_manifest_has_its_deployments(root):
    text = (root / "prefect.yaml").read_text()
    deployments = yaml.safe_load(text)["deployments"]
    categories = read_manifest(root / "data_manifest.yaml").categories
    entrypoints = {
        "flows/generate.py:generate_anomalies",
        "flows/train.py:train_detectors",
        "flows/evaluate.py:evaluate_detectors",
    }
    assert {deployment["entrypoint"] for deployment in deployments} == entrypoints
    for entrypoint in entrypoints:
        own = [d for d in deployments if d["entrypoint"] == entrypoint]
        named = {d["name"]: d["parameters"].get("category") for d in own}
        assert named == {**{name: name for name in categories}, "all": None}
        file, _, function = entrypoint.partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        assert isinstance(getattr(module, function), Flow)
    assert all(d["work_pool"]["name"] == "local" for d in deployments)
    assert str(root) not in text


def test_artifact_keys_are_what_prefect_takes():
    assert artifact_key("Screw_Bag.2") == "anomalies-screw-bag-2"
