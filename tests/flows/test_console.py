"""What commands print and write: on any terminal, to any file, pipe or standard output."""

import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from flows.commands.console import (
    escape_what_cannot_be_printed,
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
