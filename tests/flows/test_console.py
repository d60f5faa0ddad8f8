"""What commands print and write: on any terminal, to any file, pipe or standard output."""

import errno
import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from flows.commands.console import (
    READER_GONE,
    escape_what_cannot_be_printed,
    open_closed_streams,
    print_error,
    print_note,
    print_result,
    write_output,
)

ODD = "螺丝 → \udcb2\x1b[31m \U0001f600"


@pytest.fixture
def terminal(monkeypatch):
    """Standard output and error of a terminal with the given encoding; returns what was printed."""

    def of(encoding: str):
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2)]
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        escape_what_cannot_be_printed()

        def printed() -> tuple[str, str]:
            for stream in streams:
                stream.flush()
            out, err = (stream.buffer.getvalue().decode(encoding) for stream in streams)
            return out, err

        return printed

    return of


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437", "utf-8"])
def test_no_letter_and_no_terminal_ends_a_command(terminal, encoding):
    printed = terminal(encoding)
    print_result({"name": ODD}, False, f"first\n{ODD}")
    print_note(ODD)
    print_error(ODD)
    out, err = printed()
    first, shown = out.splitlines()
    assert first == "first"
    # Bytes and control characters are written out everywhere, letters where they are unknown.
    assert r"\xb2\x1b[31m" in shown
    assert ("螺丝" if encoding == "utf-8" else r"\u87ba\u4e1d") in shown
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_stays_json_on_every_terminal(terminal, encoding):
    printed = terminal(encoding)
    print_result({"name": ODD[:-2] + "\U0001f600"}, True, "")
    assert json.loads(printed()[0]) == {"name": ODD[:-2] + "\U0001f600"}


def test_a_file_for_standard_output_is_written_there(terminal):
    printed = terminal("utf-8")
    write_output(Path("-"), "瓶子\n".encode())
    write_output(Path("/dev/stdout"), b"more")
    assert printed()[0] == "瓶子\nmore"


def test_files_of_options_go_to_pipes_and_standard_output(anomalysmith, finished, tmp_path):
    version = finished["version_dir"]
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    assert anomalysmith("diff", version, version, "--html", pipe).code == 0
    reader.join()
    assert read[0].lower().startswith(b"<!doctype html>")
    assert pipe.is_fifo()
    run = anomalysmith("diff", version, version, "--html", "-")
    assert run.out.encode() == read[0]
    assert "equal" in run.err
    both = anomalysmith("diff", version, version, "--html", "-", "--json")
    assert both.code == 2
    assert "name a file" in both.err
    draft = anomalysmith("rules", "draft", "--source", "folder:x", "--out", "-")
    assert draft.code == 2
    assert "examples beside it" in draft.err


def test_streams_that_the_caller_closed_are_the_null_device(monkeypatch):
    """As with `2>&-`, and under daemons; a progress bar would write to None."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    open_closed_streams()
    try:
        print("lost", flush=True)
        print_note("lost")
        assert sys.stdin.read() == ""
        assert os.fstat(sys.stderr.fileno()).st_rdev == os.stat(os.devnull).st_rdev
    finally:
        for stream in (sys.stdin, sys.stdout, sys.stderr):
            os.close(stream.fileno())


def test_a_reader_that_had_enough_is_no_bug(anomalysmith, monkeypatch):
    """As in `anomalysmith stats VERSION | head -1`; a full disk is told once, with --json too."""

    def fail(number: int) -> None:
        def write(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("flows.commands.console.typer.echo", write)

    monkeypatch.setattr("flows.cli.print_error", print)
    fail(errno.EPIPE)
    assert anomalysmith("weights", "list").code == READER_GONE
    fail(errno.ENOSPC)
    assert anomalysmith("weights", "list", "--json").code == 2


def test_a_shell_in_a_deleted_folder_and_a_literal_home_are_user_errors(
    anomalysmith, monkeypatch, tmp_path
):
    for word in ("folder:~/photos", "~/photos", "--source=folder:~/photos", "--store=~/x", "~"):
        run = anomalysmith("doctor", "--source", word)
        assert run.code == 2
        assert run.err == (
            f"anomalysmith: {word}: the shell did not expand ~ here; write the path out, or ./~ "
            "for a folder of that name\n"
        )
    assert "no such folder" in anomalysmith("doctor", "--source", "folder:./~").out
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    run = anomalysmith("detectors")
    assert run.code == 2
    assert run.err.endswith("the folder that this shell is in was deleted; cd into another\n")
