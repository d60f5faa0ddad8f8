"""What every test gets: one thread, no network, no telemetry, an empty user cache, its own Prefect.

The environment is set at import, before any library that reads it, and is inherited by the
programs that tests start. Nothing heavy is imported here, so a small test stays quick.
"""

import atexit
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest
from hypothesis import settings
from network_guard import NetworkBlocked

from flows.environment import PROGRAM

ROOT = Path(__file__).resolve().parent.parent
# What the suite holds at its fullest (0.6), and some.
DISK_GB = 1.0
LOOPBACK = ("localhost", "::1", "0.0.0.0", "::", "")

PREFECT_HOME = tempfile.mkdtemp(prefix="anomalysmith-prefect-")
atexit.register(shutil.rmtree, PREFECT_HOME, ignore_errors=True)

# The suite gives the same results whether official weights were pulled or not: it finds none. Tests
# on the official files ask for `pulled`.
# Workers of a parallel run inherit the replaced cache below, so the first process tells them.
PULLED = Path(
    os.environ.setdefault(
        "ANOMALYSMITH_TESTS_PULLED", platformdirs.user_cache_dir("anomalysmith") + "/weights"
    )
)
CACHE = tempfile.mkdtemp(prefix="anomalysmith-cache-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
# Forced, where our programs leave alone what the user has set.
os.environ |= PROGRAM
os.environ |= {f"{library}_NUM_THREADS": "1" for library in THREADS} | {
    "OPENCV_FOR_THREADS_NUM": "1",
    "XDG_CACHE_HOME": CACHE,
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PREFECT_HOME": PREFECT_HOME,
}
# A developer's own server must not be written to.
os.environ.pop("PREFECT_API_URL", None)

# CI repeats itself: the same examples on every run; people at work get new ones each time.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_sessionstart(session: pytest.Session) -> None:
    """End at once where hundreds of tests would fail for want of disk space."""
    free_gb = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    if free_gb < DISK_GB:
        reason = (
            f"the tests expect {DISK_GB:g} GB free in {tempfile.gettempdir()}, and {free_gb:.1f} GB"
            " are: free some, or set TMPDIR to a folder on another disk"
        )
        pytest.exit(reason, returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Let sockets reach this machine only; anything else raises and names the address."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    getaddrinfo = socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _allow_only_loopback(self.family, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _allow_only_loopback(self.family, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **options: Any) -> list[Any]:
        if not _is_loopback(host):
            raise NetworkBlocked(f"a test asked for the address of {host!r}")
        return getaddrinfo(host, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@dataclass(frozen=True)
class Run:
    """How a run of the program ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object that may stand on standard output."""
        lines = self.out.splitlines()
        assert len(lines) == 1
        return json.loads(lines[0])


@pytest.fixture
def anomalysmith(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    """Call the program in this process: `anomalysmith("stats", version)`."""
    from flows import cli

    def run(*words: Any) -> Run:
        monkeypatch.setattr(sys, "argv", ["anomalysmith", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return Run(int(end.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """Prefect's own test server: slow to start, so there is one."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photographs and notes beside the checkout; absent for most people."""
    folder = Path(os.environ.get("ANOMALYSMITH_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no {folder}: set ANOMALYSMITH_SHARED to run the tests on real photographs")
    return folder


@pytest.fixture(scope="session")
def pulled() -> Callable[[str], Path]:
    """The official file of an entry in the user's own weights folder; skips where it is absent."""
    from pipeline.models.weights import store

    def find(name: str) -> Path:
        path = PULLED / store.entry(name).file
        if not path.is_file():
            pytest.skip(f"no {path.name}: run `anomalysmith weights pull {name}`")
        store.check(name, path)
        return path

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first; skip `gpu` tests where there is no device.

    torch is only asked when such a test exists.
    """
    # A worker has it for a minute; as the last one it would keep the other worker waiting.
    items.sort(key=lambda item: item.path.name != "test_golden.py")
    wanted = [item for item in items if item.get_closest_marker("gpu")]
    if not wanted:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanted:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def _allow_only_loopback(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
        raise NetworkBlocked(f"a test tried to connect to {address!r}")


def _is_loopback(host: Any) -> bool:
    if isinstance(host, bytes):
        host = host.decode()
    return host is None or host in LOOPBACK or host.startswith("127.")
