"""`verify`: every flipped byte, and every truncated, missing or added file is found."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_results import PLAN, small_version

from pipeline.dataset.files import GALLERY, INDEX, RECORDS, SUMS
from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, find_by_plan, open_version
from pipeline.dataset.version_writer import checksums
from pipeline.errors import IntegrityError, UserError
from pipeline.utils.file_hash import sha256_file

FLIPS = 200


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Version:
    """Two images in one shard, rejects, a test shard and a gallery."""
    return small_version(tmp_path_factory.mktemp("store"), images=2, tests=2, gallery=True)


def files(version: Version) -> list[Path]:
    return sorted(path for path in version.dir.rglob("*") if path.is_file())


@pytest.mark.slow
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


def test_truncated_missing_and_added_files_are_found(version, tmp_path):
    for path in files(version):
        copy = shutil.copytree(version.dir, tmp_path / version.name, dirs_exist_ok=True)
        victim = copy / path.relative_to(version.dir)
        victim.write_bytes(path.read_bytes()[:-1])
        assert not verify(copy).ok, path.name
        # The gallery can be generated again, so it may be absent.
        if path != version.dir / GALLERY:
            victim.unlink()
            if path.name == INDEX:
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


def test_the_error_for_a_path_that_is_no_version_says_what_is_there(version, tmp_path):
    for folder, said in {
        tmp_path / "nowhere": "there is no such folder",
        version.dir / INDEX: "it is a file",
        version.dir.parent: f"it holds 1; name one, such as .*{version.name}",
        tmp_path: "it holds no index.json",
    }.items():
        for read in (verify, open_version):
            with pytest.raises(UserError, match=f"is no dataset version: {said}"):
                read(folder)


def test_verify_passes_and_counts_what_it_did(version):
    report = verify(version.dir)
    assert report.ok, report.problems
    assert report.checks["paste-back"] == 2 * 4
    report.raise_if_bad()


def test_verify_finds_every_flipped_byte(tmp_path):
    version = small_version(tmp_path, gallery=True)
    rng = np.random.default_rng(0)
    files = sorted(path for path in version.dir.rglob("*") if path.is_file())
    assert len(files) == 10
    for number in range(40):
        path = files[number % len(files)]
        content = path.read_bytes()
        place, bit = int(rng.integers(len(content))), int(rng.integers(8))
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        report = verify(version.dir)
        assert not report.ok, f"bit {bit} of byte {place} of {path.name}"
        assert any(path.name in problem for problem in report.problems)
        path.write_bytes(content)
    assert verify(version.dir).ok


def reseal(folder: Path) -> None:
    """Update all checksums, as somebody would who changes a version on purpose."""
    index = json.loads((folder / INDEX).read_text())
    for shard in index["shards"]:
        shard["sha256"] = sha256_file(folder / shard["file"])
    (folder / INDEX).write_text(json.dumps(index))
    (folder / SUMS).write_bytes(checksums(folder, (folder / INDEX).read_bytes()))


@pytest.mark.parametrize(
    ("array", "row", "value", "problem"),
    [
        ("originals/pixels", (0, 0, 0, 0), 1, "CRC-32"),
        ("samples/object_mask", (0, 0, 0), 255, "decoded content"),
        ("samples/label", 0, 0, "kind and label"),
        ("samples/bbox", (0, 0), 99, "box"),
        ("samples/kind", 0, 3, "kind and label"),
        ("samples/source", 0, 1, "another image"),
        ("originals/split", 0, 1, "two splits"),
    ],
)
def test_verify_finds_content_that_was_changed_on_purpose(tmp_path, array, row, value, problem):
    folder = small_version(tmp_path).dir
    with h5py.File(folder / "shard-0000.h5", "r+") as file:
        file[array][row] = value
    reseal(folder)
    assert any(problem in found for found in verify(folder).problems)


def test_verify_finds_pixels_outside_the_mask_and_missing_rows(tmp_path):
    folder = small_version(tmp_path).dir
    with h5py.File(folder / "shard-0000.h5", "r+") as file:
        file["samples/mask"][0] = np.zeros_like(file["samples/mask"][0])
    shutil.copy(folder / RECORDS, folder / "more.parquet")
    reseal(folder)
    found = " ".join(verify(folder).problems)
    assert "outside the change mask" in found
    (folder / "more.parquet").unlink()
    (folder / "test.h5").unlink()
    with pytest.raises(IntegrityError, match=r"test\.h5 is missing"):
        verify(folder).raise_if_bad()
