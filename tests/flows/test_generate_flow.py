"""One whole flow in Prefect's own test server, and what must hold without one."""

import errno
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flows import generate as flow_module
from flows.jobs.category_options import Choices, settings_of
from flows.jobs.generate import generate
from flows.orchestration.artifacts import artifact_key
from flows.orchestration.tasks import is_transient
from pipeline.dataset.verify import verify
from pipeline.dataset.version import latest
from pipeline.errors import DeviceError, RemoteError, UserError
from pipeline.models.out_of_memory import in_batches, retry_once


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Two photographs of a dark part on a bright background."""
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

    parameters: dict[str, Any] = {"category": "Round_Parts", "manifest": str(manifest)}
    parameters |= {"store": str(tmp_path / "flow"), "workers": 2, "batch_size": 1}
    (made,) = flow_module.generate_anomalies(**parameters)
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

    (again,) = flow_module.generate_anomalies(**parameters)
    assert again["cached"]
    assert again["version_dir"] == made["version_dir"]


def test_a_category_that_fails_does_not_stop_the_others(server, manifest, tmp_path, monkeypatch):
    for name in ("first", "last"):
        (tmp_path / name).mkdir()
    for file in (manifest.parent / "parts").iterdir():
        (tmp_path / "last" / file.name).write_bytes(file.read_bytes())
    whole = (tmp_path / "last" / "0.png").read_bytes()
    (tmp_path / "last" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "manifest.yaml").write_text(
        "image_size: 96\nmodels: {inpaint: {backend: telea}}\nedits: {per_image: 1}\n"
        "store: ./store\n"
        "sources: {first: {kind: folder, path: first}, last: {kind: folder, path: last}}\n"
        "categories: {first: {source: first}, last: {source: last}}\n"
    )
    skipped: list[str] = []
    monkeypatch.setattr(
        flow_module.FlowLog,
        "inputs_skipped",
        lambda self, some: skipped.extend(f["name"] for f in some),
    )
    with pytest.raises(flow_module.CategoriesFailed, match="1 of 2 categories failed") as failed:
        flow_module.generate_anomalies(manifest=str(tmp_path / "manifest.yaml"))
    line = str(failed.value).splitlines()[1]
    assert line.startswith("first: ")
    made = latest(tmp_path / "store", "last")
    assert made is not None
    assert made.index["counts"]["images"] == 2
    assert skipped == [failure["name"] for failure in made.index["failures"]] == ["cut.png"]


def test_a_user_error_fails_the_flow_and_is_not_retried(server, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        flow_module.generate_anomalies(source=f"folder:{tmp_path}/nowhere", store=str(tmp_path))


def test_only_transient_errors_are_retried():
    from prefect.states import Failed

    for error, again in (
        (OSError(errno.EIO, "disk"), True),
        (OSError(errno.ESTALE, "share"), True),
        (ConnectionResetError(), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError(), True),
        (DeviceError("no memory is left", transient=True), True),
        (DeviceError("out of memory on paper"), False),
        (RemoteError("nobody answers", transient=True), True),
        (RemoteError("that is no image"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError(errno.ENOENT, "gone"), False),
        (UserError("manifest"), False),
        (ValueError("bug"), False),
    ):
        assert is_transient(None, None, Failed(data=error)) is again
        back = pickle.loads(pickle.dumps(error))  # as it comes from a worker
        assert is_transient(None, None, Failed(data=back)) is again


def test_a_gpu_without_memory_is_one_of_them():
    def full(rows: torch.Tensor) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(DeviceError) as alone:
        in_batches(torch.zeros(2, 1), 2, full)
    with pytest.raises(DeviceError) as twice:
        retry_once(lambda: full(torch.zeros(1)), "filling")
    assert alone.value.transient
    assert twice.value.transient


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


def test_artifact_keys_are_what_prefect_takes():
    assert artifact_key("anomalies-Screw_Bag.2") == "anomalies-screw-bag-2"
