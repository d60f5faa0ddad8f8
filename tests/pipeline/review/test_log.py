"""The file of decisions: nothing is lost to other writers, to a kill, or to a full disk."""

import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.review.decision import Decision
from pipeline.review.log import ReviewLog, review_log

AT = "2026-01-31T12:00:00.{:06d}+00:00"


def decision(number: int, reviewer: str = "Anna", **fields: str) -> Decision:
    plain = Decision(f"a.png@{number}.0", "keep", "", "", reviewer, AT.format(number))
    return replace(plain, **fields)


# A program that appends until it is killed; each number is printed once it is on the disk.
WRITER = """
import sys
from pathlib import Path
from pipeline.review.decision import Decision
from pipeline.review.log import ReviewLog

log, name, count = ReviewLog(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for number in range(count):
    at = f"2026-01-31T12:00:00.{number:06d}+00:00"
    log.append([Decision(f"a.png@{number}.{n}", "keep", "", "x" * 500, name, at) for n in range(3)])
    print(number, flush=True)
"""


def writer(path: Path, name: str, count: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", WRITER, str(path), name, str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_it_lies_beside_the_version_and_names_it(tmp_path, monkeypatch):
    folder = tmp_path / "tray" / "0001-0123456789ab"
    folder.mkdir(parents=True)
    log = review_log(folder)
    assert log.path == tmp_path / "tray" / "0001-0123456789ab.reviews.jsonl"
    assert (log.read(), log.read_since(0), log.contents().unreadable) == ((), ((), 0), 0)
    log.append([decision(0), decision(1, version="0000-ba9876543210")])
    assert [one.version for one in log.read()] == [folder.name, "0000-ba9876543210"]
    # The same file for a folder that is named in another way.
    monkeypatch.chdir(folder)
    assert review_log(Path()) == log
    assert list(folder.iterdir()) == []


def test_reading_goes_on_where_it_stopped(tmp_path):
    log = ReviewLog(tmp_path / "r.jsonl")
    log.append([decision(0)])
    first, offset = log.read_since(0)
    assert log.read_since(offset) == ((), offset)
    log.append([])
    log.append([decision(1), decision(2)])
    more, end = log.read_since(offset)
    assert (first, more) == ((decision(0),), (decision(1), decision(2)))
    assert end == log.path.stat().st_size
    # A file that was replaced is no continuation.
    log.path.write_bytes(decision(9).to_line())
    with pytest.raises(UserError, match="shorter than before"):
        log.read_since(end)
    log.path.unlink()
    with pytest.raises(UserError, match="is gone"):
        log.read_since(end)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 10_000), st.integers(0, 9))
def test_cut_anywhere_it_reads_to_a_prefix_and_can_be_continued(tmp_path_factory, made, cut, more):
    log = ReviewLog(tmp_path_factory.mktemp("log") / "r.jsonl")
    written = [decision(number) for number in made]
    log.append(written)
    whole = log.path.read_bytes() if made else b""
    log.path.write_bytes(whole[: cut % (len(whole) + 1)])
    found = log.read()
    assert list(found) == written[: len(found)]
    # Complete lines are never lost.
    assert len(found) == log.path.read_bytes().count(b"\n")
    log.append([decision(more)])
    again = log.read()
    # A line that lacked nothing but its end counts from now on.
    assert again in ((*found, decision(more)), (*written[: len(found) + 1], decision(more)))
    assert log.contents().unreadable <= 1


def test_lines_of_others_are_counted_and_skipped(tmp_path):
    log = ReviewLog(tmp_path / "r.jsonl")
    log.path.write_bytes(b"\xff\n\n# note\n" + b'{"a": ' + b"9" * 200_000 + b"}\n")
    log.append([decision(0)])
    assert log.read() == (decision(0),)
    assert log.contents().unreadable == 3


def test_appending_at_once_loses_nothing(tmp_path):
    log, count = ReviewLog(tmp_path / "r.jsonl"), 40
    names = ("Anna", "Berta", "Carl")
    writers = [writer(log.path, name, count) for name in names]
    assert [one.wait(60) for one in writers] == [0, 0, 0]
    found = log.read()
    assert log.contents().unreadable == 0
    for name in names:
        mine = [one for one in found if one.reviewer == name]
        assert [one.sample for one in mine] == [
            f"a.png@{number}.{n}" for number in range(count) for n in range(3)
        ]
    # Decisions that were made at once stay together.
    assert all(
        len({one.reviewer for one in found[n : n + 3]}) == 1 for n in range(0, len(found), 3)
    )


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path):
    log = ReviewLog(tmp_path / "r.jsonl")
    reported = 0
    for turn in range(3):
        process = writer(log.path, f"writer {turn}", 10**6)
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        reported += 1 + len(process.stdout.read().splitlines())
        process.wait(60)
    found = log.read()
    assert len(found) >= 3 * reported
    for turn in range(3):
        mine = [one.sample for one in found if one.reviewer == f"writer {turn}"]
        assert mine == [f"a.png@{n // 3}.{n % 3}" for n in range(len(mine))]


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path):
    log = ReviewLog(tmp_path / "r.jsonl")
    log.append([decision(0)])
    before = log.path.read_bytes()
    # A limit on the size of files stands for the disk: the write stops in the middle of a line.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, limits[1]))
    try:
        with pytest.raises(UserError, match=f"cannot write to {tmp_path}") as error:
            log.append([decision(1)])
        # So that a page sends it again.
        assert error.value.transient
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert log.path.read_bytes() == before
    log.append([decision(1)])
    assert log.read() == (decision(0), decision(1))


def link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere"))


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


@pytest.mark.parametrize("made", [link, link_to_nothing, Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_neither_read_nor_written(tmp_path, made):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(decision(0).to_line())
    log = ReviewLog(tmp_path / "r.jsonl")
    made(log.path)
    for act in (log.read, lambda: log.append([decision(1)])):
        with pytest.raises(UserError, match="is no file"):
            act()
    assert elsewhere.read_bytes() == decision(0).to_line()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=f"cannot write to {tmp_path}"):
        ReviewLog(tmp_path / "r.jsonl").append([decision(0)])
