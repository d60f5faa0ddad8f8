"""Killed writers: nothing published is damaged, and the next run completes.

`SIGKILL` leaves a process no time to clean up. It is sent at random times during a run and, so that
no gap remains, before each step that changes the disk. Children are forked from this process, which
has everything imported, so a trial takes a moment.
"""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_results import header, image_result, small_version
from small_stages import random_stages

from pipeline.dataset.verify import verify
from pipeline.dataset.version import Version, find_by_plan, versions
from pipeline.generation.cache import StageCache
from pipeline.generation.cache_codecs import (
    pack_analysis,
    pack_attempts,
    unpack_analysis,
    unpack_attempts,
)

EARLIER_PLAN = "e" * 64
FORK = multiprocessing.get_context("fork")
# Audit events of the interpreter, before each of which a process can be killed.
CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.link", "os.truncate")


def write(store: Path, gallery: bool = False) -> Version:
    """The run of these tests: five shards and everything else of a version."""
    return small_version(store, images=6, tests=2, shard_images=2, gallery=gallery)


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """A store in which another version was published before."""
    store = tmp_path_factory.mktemp("earlier")
    small_version(store, images=2, tests=0, head=header(plan_digest=EARLIER_PLAN))
    return store


@pytest.fixture(scope="module")
def whole(tmp_path_factory, earlier) -> Version:
    """The version that an uninterrupted run adds to that store."""
    return write(shutil.copytree(earlier, tmp_path_factory.mktemp("whole") / "store"))


def killed_after(seconds: float, work: Callable[..., Any], *args: Any) -> bool:
    """Kill a child after so many CPU seconds; False when it was done before.

    The child's CPU clock, not wall time, so a busy machine does not shift the times.
    """
    child = FORK.Process(target=work, args=args)
    child.start()
    # Linux's id for the CPU clock of another process (`MAKE_PROCESS_CPUCLOCK`).
    clock = (~(child.pid or 0) << 3) | 2
    # Reading the clock of a process that has ended is an error.
    with suppress(OSError):
        while child.is_alive() and time.clock_gettime(clock) < seconds:
            time.sleep(0.0005)
    child.kill()
    child.join()
    return child.exitcode == -signal.SIGKILL


def seconds_of(work: Callable[..., Any], *args: Any) -> float:
    """CPU seconds that a child takes for the work."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not killed_after(120, work, *args)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def check_after_the_kill(store: Path, whole: Version) -> None:
    """Everything visible is intact, and the next run gives what the uninterrupted one gave."""
    visible = [path for path in (store / "tray").iterdir() if path.name[0] != "."]
    assert len(visible) in (1, 2)
    for folder in visible:
        assert verify(folder).problems == ()
    assert find_by_plan(store, "tray", EARLIER_PLAN) is not None
    done = write(store)
    assert (done.digest, done.name) == (whole.digest, whole.name)
    assert done.index["parent"] == whole.index["parent"]
    assert verify(done.dir).problems == ()
    assert len(versions(store, "tray")) == 2
    assert {path.name for path in (store / "tray").glob(".*")} <= {".lock", ".plans"}


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_moments_lose_nothing(tmp_path, earlier, whole, kills):
    rng = np.random.default_rng(50)
    duration = seconds_of(write, shutil.copytree(earlier, tmp_path / "measure"))
    for trial in range(kills):
        delay, killed, store = rng.random() * duration, False, tmp_path / f"{trial}"
        # A child that was done before its time is tried again with half the time.
        while not killed:
            shutil.rmtree(store, ignore_errors=True)
            killed = killed_after(delay, write, shutil.copytree(earlier, store))
            delay /= 2
        check_after_the_kill(store, whole)
        shutil.rmtree(store)


def write_until(store: Path, step: int, steps: Any) -> None:
    """Write a version and die before the given step, counted from 1 in `steps`."""

    def watch(event: str, args: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(args[2], int)
        if event in CHANGES or (opened and args[2] & (os.O_WRONLY | os.O_RDWR)):
            steps.value += 1
            if steps.value == step:
                os.kill(os.getpid(), signal.SIGKILL)

    # A hook cannot be removed, but it ends with the child.
    sys.addaudithook(watch)
    write(store, gallery=True)


def test_a_kill_before_each_step_that_changes_the_disk_loses_nothing(tmp_path, earlier, whole):
    steps = FORK.Value("i", 0)
    seconds_of(write_until, shutil.copytree(earlier, tmp_path / "count"), 0, steps)
    total = steps.value
    # At least: five shards and five other files are written and renamed, and the folder itself.
    assert total > 2 * 10
    for step in range(1, total + 1):
        steps.value = 0
        store = shutil.copytree(earlier, tmp_path / f"{step}")
        assert killed_after(120, write_until, store, step, steps)
        check_after_the_kill(store, whole)
        shutil.rmtree(store)


def keep_writing_entries(root: Path) -> None:
    store, number = StageCache(root), 0
    pixels, analysis, attempts = random_stages(0, 64, 48, 9)
    while True:
        number += 1
        key = f"{number:064x}"
        store.write("analysis", key, *pack_analysis(pixels, analysis))
        store.write("samples", key, *pack_attempts(attempts))


def test_a_killed_run_leaves_complete_cache_entries_or_none(tmp_path):
    pixels, _, attempts = random_stages(0, 64, 48, 9)
    rng, entries = np.random.default_rng(7), 0
    for trial in range(20):
        root = tmp_path / f"{trial}"
        assert killed_after(0.01 + rng.random() / 30, keep_writing_entries, root)
        for path in root.rglob("*.npz"):
            entries += 1
            stored = StageCache(root).read(path.parent.parent.name, path.stem)
            assert stored is not None, f"{path} was half an entry"
            if path.parent.parent.name == "analysis":
                assert np.array_equal(unpack_analysis(*stored)[0], pixels)
            else:
                back = unpack_attempts(*stored, pixels)
                assert [a.verdict for a in back] == [a.verdict for a in attempts]
    assert entries


def generate_two(photos: Path, store: Path) -> None:
    from flows.jobs.generate import generate
    from pipeline.config.manifest import manifest_for_source, resolve

    manifest = manifest_for_source(
        "folder", photos, store=str(store), image_size=128,
        models={"inpaint": {"backend": "telea"}}, edits={"per_image": 2},
    )  # fmt: skip
    generate(resolve(manifest, "parts"), workers=1)


@pytest.mark.slow
def test_runs_killed_at_random_times_continue_where_they_stopped(tmp_path):
    """Models, cache and packing; children come from a server that has the libraries imported."""
    from small_photos import draw_parts

    photos = draw_parts(tmp_path / "photos" / "parts")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(
        ["torch", "onnxruntime", "rembg", "segment_anything", "flows.cli"]
    )

    def run(store: Path, seconds: float) -> float:
        """Seconds that the run took, or 0.0 when it was killed."""
        started = time.perf_counter()
        child = server.Process(target=generate_two, args=(photos, store))
        child.start()
        child.join(seconds)
        child.kill()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        return 0.0 if child.exitcode else time.perf_counter() - started

    run(tmp_path / "warm", 600)
    duration = run(tmp_path / "whole", 600)
    (whole,) = versions(tmp_path / "whole", "parts")
    rng, kept = np.random.default_rng(12), 0
    for trial in range(12):
        store = tmp_path / f"{trial}"
        run(store, rng.random() * duration)
        assert all(verify(version.dir).ok for version in versions(store, "parts"))
        kept += any((store / ".cache").rglob("*.npz"))
        assert run(store, 600)
        (version,) = versions(store, "parts")
        assert version.digest == whole.digest
        assert verify(version.dir).problems == ()
    assert kept, "no kill came after the first finished image"


def publish_slowly(store: Path, begun: Any) -> None:
    def results():
        begun.set()
        for number in range(6):
            yield image_result(number)
        time.sleep(600)

    small_version(store, results=results())


def test_a_waiting_writer_continues_when_the_holder_of_the_lock_is_killed(tmp_path):
    begun, waits = FORK.Event(), FORK.Event()
    holder = FORK.Process(target=publish_slowly, args=(tmp_path, begun))
    holder.start()
    assert begun.wait(60)
    other = FORK.Process(target=small_version, args=(tmp_path,), kwargs={"waiting": waits.set})
    other.start()
    assert waits.wait(60), "the second writer did not say that it waits"
    other.join(0.3)
    assert other.is_alive()
    holder.kill()
    holder.join()
    other.join(60)
    assert other.exitcode == 0
    (version,) = versions(tmp_path, "tray")
    assert verify(version.dir).ok
    assert not list((tmp_path / "tray").glob(".building-*"))
