"""`prefect.yaml` follows the manifest, and `anomalysmith deployments` says when it does not."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow

from flows.jobs.deployments import FLOWS, artifact_key, render, require_names
from pipeline.config.manifest import read_manifest
from pipeline.errors import UserError

CATEGORIES = """\
sources: {parts: {kind: folder, path: parts}}
categories: {%s}
"""


def manifest_with(folder: Path, *names: str) -> Path:
    path = folder / "data_manifest.yaml"
    path.write_text(CATEGORIES % ", ".join(f'"{name}": {{source: parts}}' for name in names))
    return path


def deployments_of(path: Path) -> list[dict[str, Any]]:
    text = render(read_manifest(path), path, path.with_name("prefect.yaml"))
    return yaml.safe_load(text)["deployments"]


def test_the_repositorys_own_file_is_fresh(anomalysmith, root, monkeypatch):
    monkeypatch.chdir(root)
    run = anomalysmith("deployments", "--check")
    assert run.code == 0, run.err
    assert str(root) not in (root / "prefect.yaml").read_text()


def test_every_flow_has_a_deployment_per_category_and_one_for_all(tmp_path):
    made = deployments_of(manifest_with(tmp_path, "bag", "Screw_Bag.2"))
    assert len(made) == len(FLOWS) * 3
    for flow in FLOWS:
        own = [d for d in made if d["entrypoint"] == flow.entrypoint]
        named = {d["name"]: d["parameters"] for d in own}
        assert named == {
            "bag": {"category": "bag"}, "Screw_Bag.2": {"category": "Screw_Bag.2"}, "all": {},
        }  # fmt: skip
        file, _, function = flow.entrypoint.partition(":")
        module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
        found = getattr(module, function)
        assert isinstance(found, Flow)
        assert found.name == flow.flow
        for deployment in own:
            unknown = deployment["parameters"].keys() - found.parameters.properties.keys()
            assert not unknown


def test_a_deployment_is_tagged_limited_and_scheduled_but_off(tmp_path):
    for deployment in deployments_of(manifest_with(tmp_path, "bag")):
        kinds = [tag.split(":")[0] for tag in deployment["tags"]]
        assert kinds == ["category", "flow", "kind"]
        (schedule,) = deployment["schedules"]
        assert schedule["active"] is False
        assert schedule["cron"]
        assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert deployment["work_pool"]["name"] == "local"


def test_another_category_makes_the_file_stale(anomalysmith, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest_with(tmp_path, "bag")
    assert "not there" in anomalysmith("deployments", "--check").err
    assert anomalysmith("deployments", "--json").json["deployments"] == 2 * len(FLOWS)
    assert anomalysmith("deployments", "--check").code == 0
    manifest_with(tmp_path, "bag", "tray")
    stale = anomalysmith("deployments", "--check")
    assert stale.code == 2
    assert "run `anomalysmith deployments`" in stale.err
    assert (tmp_path / "prefect.yaml").read_text().count("- name: tray") == 0
    anomalysmith("deployments")
    assert anomalysmith("deployments", "--check").code == 0


def test_another_manifest_is_named_in_the_parameters(tmp_path):
    (tmp_path / "plans").mkdir()
    path = tmp_path / "plans" / "night.yaml"
    manifest_with(tmp_path, "bag").rename(path)
    text = render(read_manifest(path), path, tmp_path / "prefect.yaml")
    one, every, *_ = yaml.safe_load(text)["deployments"]
    assert one["parameters"] == {"category": "bag", "manifest": "plans/night.yaml"}
    assert every["parameters"] == {"manifest": "plans/night.yaml"}
    assert "--manifest plans/night.yaml" in text


@pytest.mark.parametrize("name", ["on", "1.0", "007", "null", "1e3", "2026-01-01"])
def test_names_that_yaml_would_read_as_something_else_stay_names(tmp_path, name):
    one, *_ = deployments_of(manifest_with(tmp_path, name))
    assert one["name"] == name
    assert one["parameters"] == {"category": name}


@pytest.mark.parametrize(
    ("names", "said"), [(["all", "bag"], "reserved for all"), (["A_b", "a-B"], "anomalies-a-b")]
)
def test_names_that_prefect_cannot_tell_apart_are_rejected(names, said):
    with pytest.raises(UserError, match=said):
        require_names(names)


def test_categories_in_other_scripts_have_their_own_deployment_and_artifact(tmp_path):
    names = ["瓶子", "螺丝", "bolt"]
    require_names(names)
    text = render(read_manifest(manifest_with(tmp_path, *names)))
    assert {entry["name"] for entry in yaml.safe_load(text)["deployments"]} == {*names, "all"}
    keys = [artifact_key(f"anomalies-{name}") for name in names]
    assert keys[2] == "anomalies-bolt"
    assert len(set(keys)) == 3
    # What Prefect accepts.
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", key) for key in keys)
