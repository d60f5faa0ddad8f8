"""A store on a full or read-only disk: one clear line, nothing lost, and later runs continue."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_photos import FAST, draw_parts
from small_results import PLAN, header, image_result, small_version

from pipeline.dataset.verify import verify
from pipeline.dataset.version import find_by_plan, versions
from pipeline.errors import UserError
from pipeline.utils.files import require_writable


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A separate file system of 2 MB in memory; only root may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a tmpfs cannot be mounted here: {error}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)


def fill(place: Path, leave: int) -> Path:
    """Fill the file system except for `leave` bytes."""
    ballast = place / "ballast.bin"
    free = shutil.disk_usage(place).free
    ballast.write_bytes(bytes(max(0, free - leave)))
    return ballast


def test_a_run_on_a_full_disk_ends_with_one_line_and_can_be_completed(
    anomalysmith, small_disk, tmp_path
):
    photos, store = draw_parts(tmp_path / "parts", 3), small_disk / "store"
    arguments = (
        "generate",
        "--source",
        f"folder:{photos}",
        "--store",
        store,
        *FAST,
        "--workers",
        1,
    )
    first = anomalysmith(*arguments, "--limit", 1, "--json")
    assert first.code == 0, first.err
    (entry,) = (store / ".cache" / "samples").rglob("*.npz")
    # Room for one more image in the cache, not for two.
    ballast = fill(small_disk, 130_000)
    full = anomalysmith(*arguments, "--json")
    assert full.code == 2
    assert full.json["error"].startswith(f"cannot write to {store}")
    complaints = [line for line in full.err.splitlines() if "anomalysmith:" in line]
    assert len(complaints) == 1
    assert "No space left on device; make room" in complaints[0]
    assert "Traceback" not in full.err
    assert anomalysmith("verify", first.json["version_dir"]).code == 0
    kept = set((store / ".cache" / "samples").rglob("*.npz"))
    assert entry in kept
    assert not list(store.rglob("*.tmp"))
    ballast.unlink()
    times = {path: path.stat().st_mtime_ns for path in kept}
    done = anomalysmith(*arguments, "--json")
    assert done.code == 0, done.err
    assert done.json["images"] == 3
    # The cached entries were used, not written again.
    assert {path: path.stat().st_mtime_ns for path in kept} == times
    assert verify(Path(done.json["version_dir"])).ok


@pytest.mark.parametrize("leave", [0, 4096, 20_480, 49_152, 81_920])
def test_publishing_on_a_full_disk_keeps_earlier_versions(small_disk, leave):
    store = small_disk / "store"
    before = small_version(store, images=2, tests=0, head=header(plan_digest="e" * 64))
    ballast = fill(small_disk, leave)
    with pytest.raises(UserError, match="No space left on device; make room"):
        small_version(store, images=12, shard_images=2, gallery=True)
    assert [version.name for version in versions(store, "tray")] == [before.name]
    assert verify(before.dir).problems == ()
    assert {path.name for path in (store / "tray").glob(".*")} == {".lock"}
    ballast.unlink()
    assert verify(small_version(store, images=12, shard_images=2, gallery=True).dir).ok


def test_a_read_only_store_is_reported_before_any_work_and_can_be_read(small_disk):
    store = small_disk / "store"
    version = small_version(store, images=2, tests=0)
    remount(small_disk, "ro")
    started = []

    def results():
        started.append("an image")
        yield image_result()

    for category in (store, small_disk / "new"):
        with pytest.raises(UserError, match="Read-only file system"):
            small_version(category, results=results())
    assert started == []
    assert verify(version.dir).ok
    found = find_by_plan(store, "tray", PLAN)
    assert found is not None
    assert found.name == version.name


def test_generate_on_a_read_only_store_loads_no_model(
    anomalysmith, small_disk, tmp_path, monkeypatch
):
    photos = draw_parts(tmp_path / "parts", 1)
    arguments = ("generate", "--source", f"folder:{photos}", "--store", small_disk / "store", *FAST)
    remount(small_disk, "ro")
    monkeypatch.setattr(
        "pipeline.generation.sampler.generate_image", lambda *_: pytest.fail("work has started")
    )
    run = anomalysmith(*arguments)
    assert run.code == 2
    # The plan says first that one photo is too few for part kinds and for a validation split, and
    # that no other product is known.
    kinds, split, alone, line = run.err.splitlines()
    assert "part kinds take 4 good images" in kinds
    assert "held out for validation" in split
    assert "--other-products" in alone
    assert "Read-only file system" in line


def test_a_store_without_permission_is_reported(tmp_path):
    """Root ignores permission bits, so a process that is not root tries."""
    forbidden = tmp_path / "store"
    forbidden.mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            require_writable(forbidden / "tray")
        except UserError as error:
            code = 7 if "Permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
