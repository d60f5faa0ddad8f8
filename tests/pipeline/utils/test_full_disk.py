"""A store on a full or read-only disk: one clear line, nothing lost, and it goes on later."""

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
    """A file system of its own of 2 MB, in memory; only root may mount one."""
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
    """Leave so many bytes free; what else lies there is somebody else's."""
    ballast = place / "somebody_elses.bin"
    free = shutil.disk_usage(place).free
    ballast.write_bytes(bytes(max(0, free - leave)))
    return ballast


def test_a_run_on_a_full_disk_ends_with_one_line_and_completes_later(
    anomalysmith, small_disk, tmp_path
):
    photos, store = draw_parts(tmp_path / "parts", 3), small_disk / "store"
    words = ("generate", "--source", f"folder:{photos}", "--store", store, *FAST, "--workers", 1)
    first = anomalysmith(*words, "--limit", 1, "--json")
    assert first.code == 0, first.err
    (entry,) = (store / ".cache" / "samples").rglob("*.npz")
    ballast = fill(small_disk, 130_000)  # room for one more image in the cache, not for two
    full = anomalysmith(*words, "--json")
    assert full.code == 2
    assert full.json["error"].startswith(f"cannot write to the store at {store}")
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
    done = anomalysmith(*words, "--json")
    assert done.code == 0, done.err
    assert done.json["images"] == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == times  # used, not made again
    assert verify(Path(done.json["version_dir"])).ok


@pytest.mark.parametrize("leave", [0, 4096, 20_480, 49_152, 81_920])
def test_publishing_on_a_full_disk_leaves_what_was_there(small_disk, leave):
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


def test_a_read_only_store_is_said_before_any_work_and_still_serves(small_disk):
    store = small_disk / "store"
    version = small_version(store, images=2, tests=0)
    remount(small_disk, "ro")
    asked = []

    def results():
        asked.append("an image")
        yield image_result()

    for category in (store, small_disk / "new"):
        with pytest.raises(UserError, match="Read-only file system"):
            small_version(category, results=results())
    assert asked == []
    assert verify(version.dir).ok
    found = find_by_plan(store, "tray", PLAN)
    assert found is not None
    assert found.name == version.name


def test_generate_on_a_read_only_store_loads_no_model(
    anomalysmith, small_disk, tmp_path, monkeypatch
):
    photos = draw_parts(tmp_path / "parts", 1)
    words = ("generate", "--source", f"folder:{photos}", "--store", small_disk / "store", *FAST)
    remount(small_disk, "ro")
    monkeypatch.setattr(
        "pipeline.generation.sampler.generate_image", lambda *_: pytest.fail("work was begun")
    )
    run = anomalysmith(*words)
    assert run.code == 2
    (line,) = run.err.splitlines()
    assert "Read-only file system" in line


def test_a_store_without_permission_is_said_too(tmp_path):
    """Root passes permission bits, so a process that is not root asks."""
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
