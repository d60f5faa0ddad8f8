"""What a file is written to: replaced as a whole, through a link, or into what has no whole."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.utils.files import (
    LOCK,
    is_stream,
    locked,
    locked_if_free,
    replaced_by,
    require_writable,
    write_atomic,
)


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.csv").write_text("old")
    (tmp_path / "one.csv").symlink_to(tmp_path / "two.csv")
    (tmp_path / "two.csv").symlink_to("there/real.csv")
    write_atomic(tmp_path / "one.csv", b"new")
    assert (tmp_path / "one.csv").is_symlink()
    assert (tmp_path / "there" / "real.csv").read_bytes() == b"new"
    assert replaced_by(tmp_path / "one.csv") == (tmp_path / "there" / "real.csv").resolve()


def test_a_link_to_no_file_yet_creates_it(tmp_path):
    (tmp_path / "link.csv").symlink_to("real.csv")
    write_atomic(tmp_path / "link.csv", b"new")
    assert (tmp_path / "real.csv").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"rows")
    reader.join()
    assert read == [b"rows"]
    assert is_stream(pipe)


def test_devices_and_open_streams_are_no_files_to_replace(tmp_path):
    write_atomic(Path(os.devnull), b"rows")
    assert not Path(os.devnull).is_file()
    # Redirected into a file, standard output is one, but the shell writes to it as well.
    (tmp_path / "out").symlink_to("/dev/stdout")
    for path in (Path("/dev/stdout"), tmp_path / "out", Path("/proc/self/fd/1")):
        assert is_stream(path)
        with pytest.raises(UserError, match="name a file"):
            replaced_by(path)
    with pytest.raises(UserError, match="is a folder; name a file"):
        replaced_by(tmp_path)
    (tmp_path / "round").symlink_to("round")
    assert not is_stream(tmp_path / "round")
    assert not is_stream(tmp_path / "absent.csv")


def test_a_folder_for_libraries_must_be_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xb2\xe2")
    require_writable(folder)
    with pytest.raises(UserError, match=r"\\xb2\\xe2: the path is not UTF-8"):
        require_writable(folder, by_libraries=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_share_without_locks_is_named_and_told_what_to_do(tmp_path, monkeypatch, number):
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="choose a folder on a local disk") as caught:
        locked(tmp_path).__enter__()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOLCK, tmp_path)


def test_an_exclusive_lock_is_taken_through_a_file_that_may_be_written(tmp_path, monkeypatch):
    """NFS refuses it otherwise (EBADF); a folder that only looks writes nothing all the same."""
    flags = []
    flock = fcntl.flock

    def nfs(handle: int, kind: int) -> None:
        flags.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
        flock(handle, kind)

    (tmp_path / LOCK).touch()
    before = (tmp_path / LOCK).stat()
    monkeypatch.setattr(fcntl, "flock", nfs)
    with locked_if_free(tmp_path, touch=False) as free:
        assert free
    assert flags == [os.O_RDWR]
    assert (tmp_path / LOCK).stat() == before
