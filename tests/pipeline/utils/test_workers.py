"""Workers: forks of the process, or threads; what they inherit, and how they end.

pytest-xdist has threads of its own, beside which nothing is forked, so the forks are tested in a
program: this file.
"""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError, WorkerLost
from pipeline.utils.workers import can_fork, worker_pool


def program(case: str, *words: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, __file__, case, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(case: str, *words: object) -> Any:
    """What a case below printed, as JSON."""
    out, err = program(case, *words).communicate(timeout=60)
    assert not err, err
    return json.loads(out)


def test_forks_inherit_calls_and_send_results():
    found = answer("calls")
    # Closures cannot be pickled, so they were inherited.
    assert found["sums"] == [10, 11, 12, 13]
    assert len(found["processes"]) == 2
    assert not found["here"]


def test_an_error_of_a_call_is_raised_as_it_is():
    assert answer("error") == {"raised": "UserError", "text": "a bad word", "transient": True}


def test_after_an_error_no_call_starts(tmp_path):
    answer("stop", tmp_path)
    # The first call of each worker was in progress; all others had waited.
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_fork_is_told_in_one_line():
    found = answer("killed")
    assert "a worker process was killed" in found["text"]
    assert "fewer workers" in found["text"]
    assert found["left"] == 0


def test_forks_end_with_their_parent(tmp_path):
    parent = program("orphans", tmp_path)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline, "the forks did not start"
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    forks = [int(path.name) for path in tmp_path.iterdir()]
    while any(map(_is_running, forks)):
        assert time.monotonic() < deadline, "a fork outlived its parent"
        time.sleep(0.01)
    parent.communicate()


def test_no_fork_beside_another_thread():
    release = threading.Event()
    beside = threading.Thread(target=release.wait)
    beside.start()
    try:
        assert not can_fork()
        with worker_pool(2, {"where": os.getpid}) as submit:
            assert submit("where").result() == os.getpid()
    finally:
        release.set()
        beside.join()


def test_one_worker_is_a_thread_that_begins():
    begun: list[str] = []
    calls = {"name": lambda: threading.current_thread().name}
    with worker_pool(1, calls, lambda: begun.append("now")) as submit:
        assert submit("name").result().startswith("worker")
    assert begun == ["now"]


def test_threads_end_after_an_error():
    def late() -> None:
        time.sleep(0.05)
        done.append(1)

    def interrupted() -> None:
        with worker_pool(1, {"late": late}) as submit:
            for _ in range(20):
                submit("late")
            raise UserError("enough")

    done: list[int] = []
    with pytest.raises(UserError, match="enough"):
        interrupted()
    assert len(done) <= 2


def _is_running(pid: int) -> bool:
    # A process that nobody has waited for is not running any more.
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _calls() -> Any:
    offset = 10
    calls = {"add": lambda n: n + offset, "where": lambda _: (time.sleep(0.2), os.getpid())[1]}
    with worker_pool(2, calls) as submit:
        sums = [submit("add", n) for n in range(4)]
        places = {future.result() for future in [submit("where", n) for n in range(4)]}
        return {
            "sums": [future.result() for future in sums],
            "processes": sorted(places),
            "here": os.getpid() in places,
        }


def _error() -> Any:
    def fails() -> None:
        raise UserError("a bad word", transient=True)

    try:
        with worker_pool(2, {"fails": fails}) as submit:
            submit("fails").result()
    except UserError as error:
        return {
            "raised": type(error).__name__, "text": str(error), "transient": error.transient,
        }  # fmt: skip


def _stop(folder: str) -> Any:
    def works(n: int) -> None:
        (Path(folder) / str(n)).touch()
        time.sleep(1)

    try:
        with worker_pool(2, {"works": works}) as submit:
            for n in range(20):
                submit("works", n)
            while len(list(Path(folder).iterdir())) < 2:
                time.sleep(0.01)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        return "stopped"


def _killed() -> Any:
    try:
        with worker_pool(2, {"dies": lambda: os.kill(os.getpid(), signal.SIGKILL)}) as submit:
            submit("dies").result()
    except WorkerLost as error:
        return {"text": str(error), "left": len(multiprocessing.active_children())}


def _orphans(folder: str) -> Any:
    def waits(_: int) -> None:
        (Path(folder) / str(os.getpid())).touch()
        time.sleep(300)

    with worker_pool(2, {"waits": waits}) as submit:
        for future in [submit("waits", n) for n in range(2)]:
            future.result()


CASES = {
    "calls": _calls, "error": _error, "stop": _stop, "killed": _killed, "orphans": _orphans,
}  # fmt: skip

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](*sys.argv[2:])))
