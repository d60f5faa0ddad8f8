"""Paths from outside cannot leave their folder: manifests, sources, versions, archives."""

import json
import os
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_results import PLAN, small_version
from small_sources import mvtec_ad, mvtec_loco

from pipeline.config.manifest import read_manifest, resolve
from pipeline.dataset.index_schema import fault, is_plain_name
from pipeline.dataset.version import find_by_plan, latest, open_version, versions
from pipeline.errors import IntegrityError, ManifestError, SourceError
from pipeline.models.weights import store as weights
from pipeline.sources.listing import read_source

WAYS_OUT = ("../secret", "/etc/passwd", "a/../../secret", "..", "a\x00b", "x/y")


def manifest_at(folder: Path, **entry: str) -> Path:
    path = folder / "data_manifest.yaml"
    content = {
        "sources": {"mine": {"kind": "mvtec_ad", "path": "data"}},
        "categories": {"nut": {"source": "mine"} | entry},
    }
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("way", ["../secret", "/etc", "a/../../secret"])
def test_a_category_stays_below_its_source(tmp_path, way):
    with pytest.raises(ManifestError, match="must stay below"):
        resolve(read_manifest(manifest_at(tmp_path, path=way)), "nut")


@pytest.mark.parametrize("name", ["../nut", "/nut", "a/b", ".", "..", "nut\n", "-\u202e"])
def test_a_category_has_a_plain_name(tmp_path, name):
    path = tmp_path / "m.yaml"
    entry = {"source": "folder", "path": "photos"}
    path.write_text(json.dumps({"categories": {name: entry}}))
    with pytest.raises(ManifestError, match="name"):
        read_manifest(path)


def test_a_category_that_links_out_of_its_source_is_rejected(tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "nut").symlink_to(tmp_path / "secret")
    with pytest.raises(ManifestError, match="leads out of the source's folder"):
        resolve(read_manifest(manifest_at(tmp_path)), "nut")


PLACES = ("train", "train/good", "test", "test/crack", "ground_truth", "ground_truth/crack")


@pytest.mark.parametrize("write", [mvtec_ad, mvtec_loco])
@pytest.mark.parametrize("place", PLACES)
def test_a_linked_folder_outside_the_source_gives_no_image(tmp_path, write, place):
    root = write(tmp_path / "nut")
    place = place.replace("crack", "crack" if write is mvtec_ad else "logical_anomalies")
    os.rename(root / place, tmp_path / "outside")
    (root / place).symlink_to(tmp_path / "outside")
    if place.startswith("train"):
        with pytest.raises(SourceError, match="no usable normal image"):
            read_source(write.__name__, root, "nut")
        return
    listing = read_source(write.__name__, root, "nut")
    paths = [path for entry in listing.entries for path in (entry.path, *entry.masks)]
    assert paths
    assert all(path.resolve().is_relative_to(root.resolve()) for path in paths)
    assert any(problem.name in (place, place.partition("/")[0]) for problem in listing.problems)


def test_a_defects_config_outside_the_source_is_not_read(tmp_path):
    root = mvtec_loco(tmp_path / "nut")
    os.rename(root / "defects_config.json", tmp_path / "elsewhere.json")
    (root / "defects_config.json").symlink_to(tmp_path / "elsewhere.json")
    assert read_source("mvtec_loco", root, "nut").defects_config is None


def test_a_defect_with_an_unprintable_name_is_left_out(tmp_path):
    root = mvtec_ad(tmp_path / "nut")
    os.rename(root / "test" / "crack", root / "test" / "cra\u202eck")
    listing = read_source("mvtec_ad", root, "nut")
    assert {entry.defect for entry in listing.entries} == {"good"}
    assert any("not printable" in problem.reason for problem in listing.problems)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return small_version(tmp_path_factory.mktemp("store"), images=2, tests=1)


def rewritten(published, tmp_path, change) -> Path:
    """A copy of the version with a manipulated index."""
    home = tmp_path / "tray"
    folder = home / published.name
    folder.mkdir(parents=True)
    for path in published.dir.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    index = json.loads((folder / "index.json").read_text())
    change(index)
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_shard_must_be_in_the_folder_of_its_version(published, tmp_path, way):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")

    def change(index):
        index["shards"][0] |= {"file": way, "bytes": 6}

    folder = rewritten(published, tmp_path, change)
    with pytest.raises(IntegrityError, match="expected the name of a shard"):
        open_version(folder)
    assert versions(tmp_path, "tray") == []
    assert latest(tmp_path, "tray") is None


@pytest.mark.parametrize("key", ["category", "version", "parent"])
@pytest.mark.parametrize("way", WAYS_OUT)
def test_names_in_an_index_cannot_be_paths(published, tmp_path, key, way):
    folder = rewritten(published, tmp_path, lambda index: index.update({key: way}))
    with pytest.raises(IntegrityError, match="is damaged"):
        open_version(folder)


@pytest.mark.parametrize("size", [[2**31, 2**31], [0, 5], [1], "ab", [1.5, 2], None])
def test_an_impossible_image_size_in_an_index_is_rejected(published, tmp_path, size):
    folder = rewritten(published, tmp_path, lambda index: index.update(image_size=size))
    with pytest.raises(IntegrityError, match="image_size"):
        open_version(folder)


@pytest.mark.parametrize("way", WAYS_OUT)
def test_a_plan_finds_versions_of_its_category_only(published, tmp_path, way):
    folder = rewritten(published, tmp_path, lambda index: index.update(plan_digest="e" * 64))
    plans = folder.parent / ".plans"
    plans.mkdir()
    (plans / PLAN).write_bytes(way.encode())
    assert find_by_plan(tmp_path, "tray", PLAN) is None
    (plans / PLAN).write_text(folder.name)
    assert find_by_plan(tmp_path, "tray", PLAN).dir == folder


@settings(max_examples=200)
@given(st.text(max_size=20))
def test_a_plain_name_stays_in_its_folder(text):
    if is_plain_name(text):
        assert os.path.normpath(os.path.join("/store", text)) == f"/store/{text}"


def test_our_own_index_matches_the_schema(published):
    assert fault(published.index) == ""


def test_only_the_stated_file_is_extracted_from_a_zip(tmp_path, monkeypatch):
    """Members are read by their catalogued name and written to a name of ours."""
    from dataclasses import replace
    from hashlib import sha256

    from pipeline.models.weights import download as weights_pull

    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w") as pack:
        pack.writestr("../../escaped.txt", "out")
        pack.writestr("/absolute.txt", "out")
        pack.writestr("inside/wanted.pth", "content")
    wanted = next(entry for entry in weights.entries() if entry.member)
    wanted = replace(
        wanted, member="inside/wanted.pth", url="http://127.0.0.1/pack.zip",
        digest="sha256:" + sha256(archive.read_bytes()).hexdigest(),
    )  # fmt: skip
    monkeypatch.setattr(weights, "ENTRIES", (wanted,))
    folder = tmp_path / "weights"
    folder.mkdir()
    part = folder / "pack.zip.part"
    part.write_bytes(archive.read_bytes())
    weights_pull._receive(wanted, part, folder / wanted.file)
    assert (folder / wanted.file).read_bytes() == b"content"
    assert {path.name for path in folder.iterdir()} == {wanted.file, "pins.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"pack.zip", "weights"}
