"""`verify` against damage: every flipped byte, every cut, every lost or added file is found."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from small_results import PLAN, small_version

from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, find_by_plan, open_version
from pipeline.errors import IntegrityError, UserError

FLIPS = 200


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    """Two images in one shard, rejects, a test shard and a gallery."""
    return small_version(tmp_path_factory.mktemp("store"), images=2, tests=2, gallery=True)


def files(version: Version) -> list[Path]:
    return sorted(path for path in version.dir.rglob("*") if path.is_file())


def test_every_one_of_200_flipped_bytes_is_found_and_its_file_named(version):
    """Half of them in the shards, anywhere: pixels, masks, HDF5's own structures, padding."""
    rng = np.random.default_rng(200)
    others, shards = [], []
    for path in files(version):
        (shards if path.suffix == ".h5" else others).append(path)
    assert len(shards) == 3
    for flip in range(FLIPS):
        group = shards if flip % 2 else others
        path = group[(flip // 2) % len(group)]
        whole = path.read_bytes()
        place, bit = int(rng.integers(len(whole))), int(rng.integers(1, 256))
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        problems = verify(version.dir).problems
        path.write_bytes(whole)
        assert any(path.name in problem for problem in problems), f"{path.name} byte {place}"
    assert verify(version.dir).problems == ()


def test_cut_lost_and_added_files_are_found(version, tmp_path):
    for path in files(version):
        copy = shutil.copytree(version.dir, tmp_path / version.name, dirs_exist_ok=True)
        victim = copy / path.relative_to(version.dir)
        victim.write_bytes(path.read_bytes()[:-1])
        assert not verify(copy).ok, path.name
        if path.name != "index.html":  # the gallery can be made again, so it may be absent
            victim.unlink()
            if path.name == "index.json":
                with pytest.raises(UserError, match="holds no index"):
                    verify(copy)
            else:
                assert not verify(copy).ok, path.name
        shutil.rmtree(copy)
    copy = shutil.copytree(version.dir, tmp_path / version.name)
    (copy / "notes.txt").write_text("mine")
    assert "notes.txt" in str(verify(copy).problems)


def test_a_damaged_version_is_reported_with_what_to_do_and_not_replaced(version, tmp_path):
    store = shutil.copytree(version.dir.parent.parent, tmp_path / "store")
    (store / "tray" / version.name / "shard-0000.h5").unlink()
    with pytest.raises(IntegrityError, match="restore the version from a copy, or delete"):
        find_by_plan(store, "tray", PLAN)
    with pytest.raises(IntegrityError, match="restore the version from a copy, or delete"):
        small_version(store, images=2, tests=2, gallery=True)
    shutil.rmtree(store / "tray" / version.name)
    again = small_version(store, images=2, tests=2, gallery=True)
    assert again.digest == version.digest


def test_a_place_that_is_no_version_is_described(version, tmp_path):
    for folder, said in {
        tmp_path / "nowhere": "there is no such folder",
        version.dir / "index.json": "it is a file",
        version.dir.parent: f"it holds 1; name one, such as .*{version.name}",
        tmp_path: "it holds no index.json",
    }.items():
        for ask in (verify, open_version):
            with pytest.raises(UserError, match=f"is no dataset version: {said}"):
                ask(folder)
