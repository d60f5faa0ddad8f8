"""The flow `compare-detectors` in Prefect's own test server."""

from inspect import signature
from pathlib import Path
from typing import Any

import pytest
from small_comparisons import ruled_version

from detectors.training.job import TrainJob
from flows import compare as flow_module
from flows.commands.compare import compare_command
from flows.jobs.train import home_of
from flows.orchestration.artifacts import PairsFailed

TINY: dict[str, Any] = {
    "profile": "tiny", "size": 64, "device": "cpu", "precision": "fp32", "steps": 2,
    "detectors": ["nearest", "efficientad"], "settings": ["nearest.bank=64"],
}  # fmt: skip


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """A version of `tray`, beside a manifest that names `tray`, and `bag` which has none."""
    folder = tmp_path_factory.mktemp("flow")
    (folder / "manifest.yaml").write_text(
        "store: ./store\nsources: {parts: {kind: folder, path: parts}}\n"
        "categories: {tray: {source: parts}, bag: {source: parts}}\n"
    )
    return ruled_version(folder / "store")


@pytest.fixture(scope="module")
def manifest(version) -> str:
    return str(version.dir.parent.parent.parent / "manifest.yaml")


def test_the_flow_compares_and_stores_a_page(server, version, manifest):
    from prefect.artifacts import Artifact

    *trained, found = flow_module.compare_detectors(category="tray", manifest=manifest, **TINY)
    assert [row["detector"] for row in trained] == ["nearest", "efficientad"]
    home = home_of(version.dir.parent.parent) / "tray" / version.name
    assert Path(found["page"]) == home / "compare.html"
    assert {Path(row["checkpoint"]).parent for row in trained} == {home}
    page = Artifact.get("comparison-tray")
    assert page is not None
    assert Path(found["page"]).as_uri() in str(page.data)
    assert f"Take {found['recommendation']['detector']}" in str(page.data)


def test_a_detector_that_fails_is_named_and_the_others_are_compared(
    server, manifest, tmp_path, monkeypatch
):
    def one_breaks(job: TrainJob, watcher: Any) -> Any:
        if job.recipe.name == "efficientad":
            raise ValueError("a bug of ours")
        return run(job, watcher)

    run = flow_module.train
    monkeypatch.setattr(flow_module, "train", one_breaks)
    with pytest.raises(PairsFailed) as failed:
        flow_module.compare_detectors(manifest=manifest, out=str(tmp_path), test=False, **TINY)
    _, bug, found, absent = failed.value.rows
    assert bug["error"] == "ValueError: a bug of ours"
    assert found["recommendation"]["detector"] == "nearest"
    assert found["left_out"][0]["detector"] == "efficientad"
    assert (absent["category"], "generate" in absent["error"]) == ("bag", True)


def test_the_flow_offers_the_options_of_the_command():
    offered = signature(flow_module.compare_detectors.fn).parameters
    options = signature(compare_command).parameters
    # The command calls the category its target, and its settings `--set`.
    names = {"target": "category", "changes": "settings"}
    wanted = {names.get(name, name) for name in options} - {"dry_run", "as_json"}
    assert set(offered) == wanted
    for name in wanted - {"category", "settings"}:
        assert (offered[name].default or None) == (options[name].default or None), name
