"""Which CPUs are free: by the load of others, the container's quota and the process's affinity."""

import os
import subprocess
import sys
import time

import pytest

from pipeline.utils import free_cpus
from pipeline.utils.free_cpus import Cpus, busy_elsewhere, cpus, left_free, usable_cpus, workers_for


def test_cpus_that_other_programs_keep_busy_are_not_free() -> None:
    # Nobody else, a little, one and a half CPUs, and far too many.
    assert [left_free(4, 4, busy) for busy in (0.0, 0.4, 1.5, 40.0)] == [4, 4, 3, 1]
    # Two of sixteen CPUs may be used; what the others do matters when it reaches these.
    assert [left_free(2, 16, busy) for busy in (10.0, 15.0)] == [2, 1]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, None),
    ],
)
def test_a_container_has_at_most_its_quota(tmp_path, files, expected) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cpus(tmp_path) == (expected or len(os.sched_getaffinity(0)))


def test_the_affinity_of_the_process_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from pipeline.utils.free_cpus import cpus; print(cpus())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Cpus(usable=1, free=1)"


def test_our_own_work_is_not_that_of_others() -> None:
    started = time.process_time()
    found = busy_elsewhere()
    assert 0 <= found <= os.cpu_count() + 1
    assert time.process_time() - started < 1
    assert 1 <= cpus().free <= cpus().usable


@pytest.mark.parametrize("stat", [None, "", "cpu 1 2"])
def test_a_system_that_says_nothing_of_others_ends_no_run(monkeypatch, tmp_path, stat) -> None:
    if stat is not None:
        (tmp_path / "stat").write_text(stat)
    monkeypatch.setattr(free_cpus, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert busy_elsewhere() == 3

    def unknown() -> tuple[float, float, float]:
        raise OSError("load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", unknown)
    assert busy_elsewhere() == 0


def test_the_number_of_workers_is_said_in_one_line() -> None:
    said: list[str] = []
    count = workers_for(said.append, "--workers N")
    assert len(said) == 1
    assert said[0].startswith(f"{count} worker")
    assert said[0].endswith("free; --workers N overrides")
    assert Cpus(4, 2).describe() == "2 of 4 CPUs are free"
    assert Cpus(1, 1).describe() == "1 of 1 CPU is free"
