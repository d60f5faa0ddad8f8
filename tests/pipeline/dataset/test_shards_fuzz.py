"""Damaged versions give the project's own errors: no crash in HDF5, no hang, no huge allocation.

They are read in a process of its own (`fuzz_shards.py`), because HDF5's C code may crash on corrupt
bytes.
"""

import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from small_results import small_version

from pipeline.dataset.shard_reader import ShardReader
from pipeline.dataset.version import open_version
from pipeline.errors import IntegrityError

PROGRAM = Path(__file__).parents[2] / "helpers" / "fuzz_shards.py"


def fuzz(root: Path, store: Path, profile: str, trials: int) -> None:
    version = small_version(store, images=3, tests=2, shard_images=2, profile=profile)
    command = [sys.executable, str(PROGRAM), str(version.dir), "0", str(trials)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f"trial {lines[-1] if lines else '-'}: {run.stderr[-2000:]}"
    assert lines[-1] == "done"
    assert [line for line in lines if line.startswith("FOUND")] == []


@pytest.mark.parametrize("profile", ["default", "fast"])
def test_sixty_damaged_versions(root, tmp_path, profile):
    fuzz(root, tmp_path, profile, 60)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["default", "portable", "fast"])
def test_a_thousand_damaged_versions(root, tmp_path, profile):
    fuzz(root, tmp_path, profile, 1000)


def replaced(path: Path, name: str, how: str, secret: Path) -> None:
    """Let an array of a shard refer to other data, in one of the ways that HDF5 offers."""
    with h5py.File(path, "r+") as file:
        shape, kind = file[name].shape, file[name].dtype
        del file[name]
        if how == "external link":
            file[name] = h5py.ExternalLink(str(secret), "/stolen")
        elif how == "soft link":
            file[name] = h5py.SoftLink("/originals/split")
        elif how == "raw file":
            size = int(np.prod(shape)) * kind.itemsize
            file.create_dataset(name, shape, kind, external=[(str(secret), 0, size)])
        elif how == "virtual":
            layout = h5py.VirtualLayout(shape, kind)
            layout[...] = h5py.VirtualSource(str(secret), "/stolen", shape)
            file.create_virtual_dataset(name, layout)
        else:
            # A header of a few bytes that claims terabytes.
            file.create_dataset(name, (2**40, *shape[1:]), kind, chunks=(1, *shape[1:]))


@pytest.mark.parametrize("how", ["external link", "soft link", "raw file", "virtual", "huge"])
def test_an_array_outside_its_file_or_too_large_is_rejected(tmp_path, how):
    version = small_version(tmp_path / "store", images=2, tests=0)
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["stolen"] = np.full(version.index["counts"]["accepted"], 77, np.uint8)
    path = version.dir / "shard-0000.h5"
    replaced(path, "samples/label", how, secret)
    with ShardReader(path) as reader, pytest.raises(IntegrityError, match="damaged at samples"):
        reader.array("samples/label")


def test_a_group_that_is_a_link_is_not_followed(tmp_path):
    version = small_version(tmp_path / "store", images=2, tests=0)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["label"] = np.zeros(3, np.uint8)
    path = version.dir / "shard-0000.h5"
    with h5py.File(path, "r+") as file:
        del file["samples"]
        file["samples"] = h5py.ExternalLink(str(other), "/")
    with ShardReader(path) as reader, pytest.raises(IntegrityError, match="link to another place"):
        reader.array("samples/label")


def test_an_intact_version_is_read(tmp_path):
    version = open_version(small_version(tmp_path, images=2, tests=1).dir)
    assert len(list(version.samples())) == version.index["counts"]["accepted"]
