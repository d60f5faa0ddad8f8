"""The flows over detectors in Prefect's own test server, and what must hold without one."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_results import small_version

from detectors.training.job import TrainJob
from flows import evaluate as evaluate_module
from flows import train as train_module
from flows.jobs.evaluate import checkpoints_in
from flows.jobs.train import home_of, job_of, placed
from flows.orchestration.artifacts import PairsFailed, artifact_key
from pipeline.dataset.version import Version
from pipeline.errors import UserError

TINY: dict[str, Any] = {"profile": "tiny", "size": 64, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """A version of `tray`, beside a manifest that names `tray`, and `bag` which has none."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "manifest.yaml").write_text(
        "store: ./store\nsources: {parts: {kind: folder, path: parts}}\n"
        "categories: {tray: {source: parts}, bag: {source: parts}}\n"
    )
    return small_version(folder / "store", images=10, tests=6, size=(64, 64))


@pytest.fixture(scope="module")
def manifest(version) -> str:
    return str(version.dir.parent.parent.parent / "manifest.yaml")


def test_the_flows_train_and_evaluate_and_are_served_again(server, version, manifest):
    from prefect.artifacts import Artifact

    parameters = {"category": "tray", "manifest": manifest}
    (trained,) = train_module.train_detectors(
        **parameters, **TINY, detectors=["nearest"], settings=["bank=64"]
    )
    checkpoint = Path(trained["checkpoint"])
    home = home_of(version.dir.parent.parent)
    assert checkpoint.parent == home / "tray" / version.name
    assert trained["validation"]["normals"] == 2
    page = Artifact.get("training-tray")
    assert page is not None
    assert str(checkpoint) in str(page.data)

    how = {"device": "cpu", "precision": "fp32"}
    (measured,) = evaluate_module.evaluate_detectors(**parameters, **how)
    assert measured["image_auroc"] is not None
    assert json.loads(Path(measured["report"]).with_suffix(".json").read_text())
    page = Artifact.get("evaluation-tray")
    assert page is not None
    assert Path(measured["report"]).as_uri() in str(page.data)
    assert f"{measured['image_auroc']:.3f}" in str(page.data)

    tensors = checkpoint / "model.safetensors"
    before = tensors.stat().st_mtime_ns
    (again,) = train_module.train_detectors(
        **parameters, **TINY, detectors=["nearest"], settings=["bank=64"]
    )
    assert again["checkpoint"] == str(checkpoint)
    assert tensors.stat().st_mtime_ns == before
    (served,) = evaluate_module.evaluate_detectors(**parameters, **how)
    assert (measured["cached"], served["cached"]) == (False, True)
    assert served["image_auroc"] == measured["image_auroc"]


def test_a_pair_that_fails_does_not_stop_the_others(server, manifest, tmp_path, monkeypatch):
    def one_breaks(job: TrainJob, watcher: Any) -> Any:
        if job.seed == 5 and job.recipe.name == "efficientad":
            raise ValueError("a bug of ours")
        return run(job, watcher)

    run = train_module.train
    monkeypatch.setattr(train_module, "train", one_breaks)
    with pytest.raises(PairsFailed, match="3 of 4 pairs failed") as failed:
        train_module.train_detectors(
            manifest=manifest,
            out=str(tmp_path),
            seed=5,
            detectors=["efficientad", "nearest"],
            **TINY,
        )
    bug, done, *absent = failed.value.rows
    assert bug["error"] == "ValueError: a bug of ours"
    assert Path(done["checkpoint"]).is_dir()
    assert all(row["category"] == "bag" and "generate" in row["error"] for row in absent)


def test_a_word_that_means_nothing_ends_the_run_before_it_starts(server, manifest, tmp_path):
    for wrong in ({"detectors": ["nearest", "magic"]}, {"settings": ["bnak=3"]}):
        with pytest.raises(UserError, match=r"magic|bnak"):
            train_module.train_detectors(
                manifest=manifest, category="tray", out=str(tmp_path), **TINY, **wrong
            )
    assert list(tmp_path.iterdir()) == []


def test_nothing_trained_is_a_failed_pair(server, manifest, tmp_path):
    with pytest.raises(PairsFailed, match="train-detectors"):
        evaluate_module.evaluate_detectors(category="tray", manifest=manifest, out=str(tmp_path))


def test_what_decides_a_training_names_its_folder(version, tmp_path):
    options = {"detector": "nearest", "version": version.dir, "out": Path(), "profile": "tiny"}
    job = job_of(options | {"size": 64})
    home = placed(job, tmp_path).out
    assert home.parent == tmp_path / "tray" / version.name
    for other in ({"seed": 1}, {"size": 96}, {"changes": ("bank=7",)}):
        changed = job_of(options | {"size": 64} | other)
        assert placed(changed, tmp_path).out != home
    assert placed(job, tmp_path).out == home


def test_checkpoints_are_found_by_version_and_detector(version, tmp_path):
    folder = tmp_path / "tray" / version.name
    for name in ("semrec-00000001", "nearest-00000002", "nearest-00000003"):
        (folder / name).mkdir(parents=True)
        (folder / name / "checkpoint.json").touch()
    (folder / "puad-00000004" / "resume").mkdir(parents=True)  # not finished
    names = [path.name for path in checkpoints_in(tmp_path, version, None)]
    assert names == ["nearest-00000002", "nearest-00000003", "semrec-00000001"]
    (only,) = checkpoints_in(tmp_path, version, ["semrec"])
    assert only.name == "semrec-00000001"
    with pytest.raises(UserError, match="puad"):
        checkpoints_in(tmp_path, version, ["puad"])


def test_artifact_keys_are_what_prefect_takes():
    assert artifact_key("training-Screw_Bag.2") == "training-screw-bag-2"
