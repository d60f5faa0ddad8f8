"""A bundle is all that an offline machine needs: found, checked and pinned from one folder."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows import cli
from pipeline.config.manifest import read_manifest, resolve
from pipeline.errors import UserError, WeightsError
from pipeline.generation import offline_bundle as weights_bundle
from pipeline.generation.offline_bundle import plan_bundle, write_bundle
from pipeline.models import build as models
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights

MANIFEST = """
models:
  foreground: {backend: u2net}
  proposals: {backend: small}
  inpaint: {backend: lama}
categories:
  nut: {source: folder, path: photos}
  bolt:
    source: folder
    path: photos
    models: {inpaint: {backend: lama, weights: own/mine.pt}, foreground: {backend: bundled}}
"""
SIZES = {"u2net.onnx": 2_500_000, "big-lama.pt": 300}


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A machine with two official files (any bytes), one file of its own, and a manifest."""
    anonymous = [dataclasses.replace(entry, digest="") for entry in weights.ENTRIES]
    monkeypatch.setattr(weights, "ENTRIES", tuple(anonymous))
    cache = tmp_path / "cache" / "weights"
    cache.mkdir(parents=True)
    for name, size in SIZES.items():
        (cache / name).write_bytes(bytes(range(250)) * (size // 250) + b"rest")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.pt").write_bytes(b"trained at home")
    (tmp_path / "m.yaml").write_text(MANIFEST)
    monkeypatch.delenv("ANOMALYSMITH_WEIGHTS", raising=False)
    monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: str(cache.parent))
    return tmp_path


@pytest.fixture
def unplug(monkeypatch):
    """Be another machine: empty cache, and only the bundle is named."""

    def to(folder):
        monkeypatch.setenv("ANOMALYSMITH_WEIGHTS", str(folder))
        monkeypatch.setattr(weights.platformdirs, "user_cache_dir", lambda _: "/nowhere")

    return to


def settings(root, *categories):
    manifest = read_manifest(root / "m.yaml")
    return [resolve(manifest, name) for name in categories or manifest.categories]


def written(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_bundle_is_all_that_the_other_machine_needs(online, unplug):
    plan = plan_bundle(settings(online, "nut"))
    write_bundle(plan, online / "usb")
    here = models.resolve(settings(online, "nut")[0].models).digests()
    unplug(online / "usb")
    there = models.resolve(settings(online, "nut")[0].models)
    assert there.foreground == ("u2net", online / "usb" / "u2net.onnx")
    assert there.inpaint == ("lama", online / "usb" / "big-lama.pt")
    assert there.digests() == here
    assert weights.require("u2net") == online / "usb" / "u2net.onnx"
    with pytest.raises(WeightsError, match="missing"):
        weights.require("sam-vit-b")


def test_it_holds_files_checksums_pins_and_an_explanation(online):
    plan = plan_bundle(settings(online))
    write_bundle(plan, online / "usb")
    own = hashlib.sha256(b"trained at home").hexdigest()
    place = f"own/{own[:8]}-mine.pt"
    assert written(online / "usb") == {
        "u2net.onnx", "big-lama.pt", place, "SHA256SUMS", "README.md", "pins.json",
    }  # fmt: skip
    expected = {
        name: hashlib.sha256((online / "cache/weights" / name).read_bytes()).hexdigest()
        for name in SIZES
    }
    sums = dict(
        reversed(line.split("  ")) for line in (online / "usb/SHA256SUMS").read_text().splitlines()
    )
    assert sums == expected | {place: own}
    assert weights_pins.read(online / "usb") == expected
    text = (online / "usb" / "README.md").read_text()
    for part in (
        "ANOMALYSMITH_WEIGHTS",
        "| u2net.onnx | Apache-2.0 | yes |",
        f"category `bolt`: `models.inpaint.weights: THIS_FOLDER/{place}`",
        "from the program itself: bundled-sam, bundled-teacher, bundled-u2netp",
    ):
        assert part in text
    assert plan.builtin == ("bundled-sam", "bundled-teacher", "bundled-u2netp")


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum on this machine")
def test_the_checksums_are_what_sha256sum_reads(online):
    write_bundle(plan_bundle(settings(online)), online / "usb")
    run = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=online / "usb", capture_output=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_whole_files_are_kept_and_damaged_ones_made_again(online):
    plan = plan_bundle(settings(online))
    places = [file.place for file in plan.files]
    assert write_bundle(plan, online / "usb") == places
    before = (online / "usb" / "u2net.onnx").stat().st_mtime_ns
    (online / "usb" / "big-lama.pt").write_bytes(b"cut")
    (online / "usb" / "u2net.onnx.part").write_bytes(b"of a run that was stopped")
    assert write_bundle(plan, online / "usb") == ["big-lama.pt"]
    assert (online / "usb" / "u2net.onnx").stat().st_mtime_ns == before
    weights.check("big-lama", online / "usb" / "big-lama.pt")


def test_a_stop_half_way_leaves_no_half_file_and_the_same_call_ends_it(online):
    plan = plan_bundle(settings(online, "nut"))

    def stop(done, total):
        if done >= 2_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bundle(plan, online / "usb", stop)
    assert written(online / "usb") == {"u2net.onnx.part"}
    seen = []
    write_bundle(plan, online / "usb", lambda done, total: seen.append((done, total)))
    assert seen[-1] == (plan.size, plan.size)
    assert seen == sorted(seen)
    assert "u2net.onnx.part" not in written(online / "usb")


def test_two_manifests_may_share_a_folder(online):
    write_bundle(plan_bundle(settings(online, "nut")), online / "usb")
    (online / "cache/weights" / weights.entry("swin-tiny").file).write_bytes(b"swin")
    write_bundle(plan_bundle(settings(online, "bolt"), ["swin-tiny"]), online / "usb")
    sums = (online / "usb" / "SHA256SUMS").read_text()
    assert all(name in sums for name in ("u2net.onnx", "mine.pt", "swin_tiny"))
    readme = (online / "usb" / "README.md").read_text()
    assert "| u2net.onnx |" in readme
    assert "ImageNet-1k" in readme


def test_a_model_folder_travels_without_its_pickles(online, unplug):
    model = online / "cache/weights/stable-diffusion-inpainting"
    (model / "unet").mkdir(parents=True)
    (model / "model_index.json").write_text("{}")
    (model / "unet" / "model.safetensors").write_bytes(b"tensors")
    (model / "unet" / "model.bin").write_bytes(b"a pickle")
    write_bundle(plan_bundle([], ["sd-inpainting"]), online / "usb")
    assert "use restrictions" in (online / "usb" / "README.md").read_text()
    assert not list((online / "usb").rglob("*.bin"))
    unplug(online / "usb")
    assert weights.require("sd-inpainting") == online / "usb" / "stable-diffusion-inpainting"


def test_bundled_models_are_not_copied(online):
    (online / "m.yaml").write_text("categories: {nut: {source: folder, path: photos}}\n")
    for name in SIZES:
        (online / "cache/weights" / name).unlink()
    plan = plan_bundle(settings(online))
    assert plan.files == ()
    assert set(plan.builtin) == {
        "bundled-u2netp", "bundled-sam", "bundled-lama", "bundled-teacher",
    }  # fmt: skip


def test_a_missing_file_names_the_command(online):
    (online / "cache/weights/big-lama.pt").unlink()
    with pytest.raises(WeightsError, match="run `anomalysmith weights pull big-lama`"):
        plan_bundle(settings(online, "nut"))


def test_unsuitable_folders_are_rejected(online):
    plan = plan_bundle(settings(online, "nut"))
    with pytest.raises(UserError, match="weights are read from"):
        write_bundle(plan, online / "cache" / "weights")
    (online / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        write_bundle(plan, online / "file")


def test_a_source_that_changes_meanwhile_is_not_bundled(online, monkeypatch):
    plan = plan_bundle(settings(online, "nut"))
    (online / "cache/weights/u2net.onnx").write_bytes(b"replaced")
    with pytest.raises(weights_bundle.IntegrityError, match="changed while"):
        write_bundle(plan, online / "usb")
    assert written(online / "usb") == set()


def test_the_command_says_what_it_does(online, monkeypatch, capsys):
    def run(*words):
        words = ["weights", "bundle", *map(str, words), "--manifest", str(online / "m.yaml")]
        monkeypatch.setattr(sys, "argv", ["anomalysmith", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
        return capsys.readouterr().out

    usb = online / "usb"
    assert "would copy  u2net.onnx" in run(usb, "--dry-run")
    assert not usb.exists()
    answer = json.loads(run(usb, "--category", "nut", "--json"))
    assert [file["file"] for file in answer["files"]] == ["u2net.onnx", "big-lama.pt"]
    assert all(file["copied"] for file in answer["files"])
    assert answer["bytes"] == sum(Path(file["from"]).stat().st_size for file in answer["files"])
    assert "kept  u2net.onnx" in run(usb, "--category", "nut")
    assert f"ANOMALYSMITH_WEIGHTS={usb}" in run(usb)
