"""Writers of the store: two at once, one killed, a full disk."""

import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
from small_results import PLAN, header, image_result, small_version

from pipeline.dataset.verify import verify
from pipeline.dataset.version import find_by_plan, versions
from pipeline.errors import UserError

OTHER_PLAN = "f" * 64


def test_two_writers_of_one_category_wait_for_each_other(tmp_path):
    fork = multiprocessing.get_context("fork")
    jobs = [(4, PLAN), (5, OTHER_PLAN), (4, PLAN)]
    writers = [
        fork.Process(
            target=small_version, args=(tmp_path, n), kwargs={"head": header(plan_digest=plan)}
        )
        for n, plan in jobs
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    made = versions(tmp_path, "tray")
    assert sorted(version.index["counts"]["images"] for version in made) == [4, 5]
    assert all(verify(version.dir).ok for version in made)


def publish_when_signalled(store: Path, begun: Any, go_on: Any) -> None:
    def results():
        begun.set()
        assert go_on.wait(60)
        yield from map(image_result, range(6))

    small_version(store, results=results())


def test_a_second_writer_of_the_same_plan_waits_and_takes_the_others_version(tmp_path):
    fork = multiprocessing.get_context("fork")
    begun, go_on = fork.Event(), fork.Event()
    first = fork.Process(target=publish_when_signalled, args=(tmp_path, begun, go_on))
    first.start()
    assert begun.wait(60)
    consumed = []
    mine = small_version(
        tmp_path,
        results=(consumed.append(n) or image_result(n) for n in range(6)),
        # The first writer continues only when the second has reported that it waits.
        waiting=go_on.set,
    )
    first.join()
    assert first.exitcode == 0
    assert consumed == []
    assert [version.name for version in versions(tmp_path, "tray")] == [mine.name]
    assert mine.digest == small_version(tmp_path / "alone").digest


def publish_and_die(store: Path, after: int) -> None:
    def results():
        for number in range(after):
            yield image_result(number)
        os.kill(os.getpid(), signal.SIGKILL)

    small_version(store, results=results())


@pytest.mark.parametrize("after", [0, 3, 5])
def test_a_killed_writer_leaves_nothing_visible_and_the_next_run_completes(tmp_path, after):
    process = multiprocessing.get_context("fork").Process(
        target=publish_and_die, args=(tmp_path / "store", after)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    home = tmp_path / "store" / "tray"
    assert [path.name for path in home.iterdir() if not path.name.startswith(".")] == []
    assert any(home.glob(".building-*"))
    assert find_by_plan(tmp_path / "store", "tray", PLAN) is None
    done = small_version(tmp_path / "store")
    assert done.digest == small_version(tmp_path / "clean").digest
    assert not any(home.glob(".building-*"))
    assert verify(done.dir).ok


def test_a_failing_writer_cleans_up(tmp_path):
    def results():
        yield image_result(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        small_version(tmp_path, results=results())
    assert [path.name for path in (tmp_path / "tray").iterdir()] == [".lock"]


def test_a_store_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot write to"):
        small_version(tmp_path / "store")


def publish_with_little_room(store: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        small_version(store)
    except UserError as error:
        os._exit(7 if "cannot write to" in str(error) else 1)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=publish_with_little_room, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 7
    assert [path.name for path in (tmp_path / "tray").iterdir()] == [".lock"]
