"""`anomalysmith serve` as a program: its address, its end, and what it refuses."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from small_results import small_version


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    small_version(folder)
    return folder


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    address: str


@contextmanager
def serving(root: Path, *words: object, **variables: str) -> Iterator[Server]:
    """The program in a process of its own, on a free port."""
    line = [sys.executable, "-m", "flows.cli", "serve", *map(str, words), "--port", "0"]
    environment = os.environ | variables
    process = subprocess.Popen(
        line, cwd=root, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        # Flushed by the program itself, as nobody may wait for more of it.
        said = process.stdout.readline()
        yield Server(process, said.partition(" at ")[2].partition("  (")[0])
    finally:
        process.kill()
        process.communicate()


def test_it_prints_its_address_opens_it_answers_and_ends_with_ctrl_c(root, store, tmp_path):
    """The browser is a program that writes down what it is given."""
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}.part && mv {opened}.part {opened}\n')
    browser.chmod(0o755)
    with serving(root, store, "--open", BROWSER=str(browser)) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.address)
        answer = httpx.get(server.address, timeout=60)
        assert "tray" in answer.text
        assert "server" not in answer.headers
        while not opened.exists():
            time.sleep(0.02)
        assert opened.read_text() == f"{server.address}\n"
        server.process.send_signal(signal.SIGINT)
        out, err = server.process.communicate(timeout=60)
        assert (server.process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
def test_who_is_not_on_this_machine_needs_the_token(root, store):
    """It is made up, and printed once."""
    with serving(root, store, "--host", "0.0.0.0") as server:
        assert server.address.startswith(f"http://{socket.gethostname()}:")
        port, token = re.search(r":(\d+)/\?token=([\w-]{20,})$", server.address).groups()
        here = f"http://127.0.0.1:{port}/"
        assert httpx.get(here).status_code == 401
        client = httpx.Client(follow_redirects=True)
        assert "tray" in client.get(here, params={"token": token}).text
        # The cookie is there from now on.
        assert client.get(here).status_code == 200


def test_a_port_in_use_is_a_user_error(anomalysmith: Callable, store):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = anomalysmith("serve", store, "--port", port)
    assert (run.code, run.out) == (2, "")
    said = f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose another --port"
    assert said in run.err
    assert run.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{store}/nowhere",), "there is no store"),
        (("{store}/tray",), "is one product of a store; name the store itself: {store}"),
        (("{version}",), "is one version; name the store that it lies in: {store}"),
        (("{store}", "--runs", "{store}/nowhere"), "there is no folder"),
        (("{store}", "--token", "short"), "at least 16 letters"),
        (("{store}", "--token", "a token with some blanks"), "at least 16 letters"),
        (("{store}", "--port", "65536"), "less than or equal to 65535"),
    ],
)
def test_a_mistake_is_one_line(anomalysmith: Callable, store, words, said):
    (version,) = (store / "tray").glob("0001-*")
    names = {"store": store, "version": version}
    run = anomalysmith("serve", *(word.format(**names) for word in words))
    assert run.code == 2
    assert said.format(**names) in run.err
    assert "Traceback" not in run.err
