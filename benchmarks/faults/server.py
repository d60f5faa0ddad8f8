"""Drills with a Prefect server: it is killed during a run, or its database is locked."""

import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from benchmarks.faults.drill import (
    FAST,
    Outcome,
    begun,
    draw_images,
    generate,
    process,
    wait_for,
)
from pipeline.dataset.verify import verify
from pipeline.dataset.version import versions

# Seconds without a server, and with a locked database: longer than sqlite3's default timeout of 5.
AWAY, LOCKED = 5.0, 12.0
# The flow in a process of its own, as a worker would run it.
FLOW = """
import sys
from flows.generate import generate_anomalies
generate_anomalies(manifest=sys.argv[1], store=sys.argv[2], workers=1, batch_size=1)
"""


def restarted(work: Path) -> Outcome:
    """The server is killed during a run and started again with the same database."""

    def disturb(port: int) -> None:
        pass

    return _drill(work, "server restarted", away=True, disturb=disturb)


def locked(work: Path) -> Outcome:
    """Another process holds an exclusive lock on the server's SQLite database for a while."""
    database = work / "prefect" / "prefect.db"

    def disturb(port: int) -> None:
        with sqlite3.connect(database, timeout=30, isolation_level=None) as other:
            # Nobody else can read or write until the rollback.
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED)
            other.execute("ROLLBACK")

    return _drill(work, "database locked", away=False, disturb=disturb)


def _drill(work: Path, name: str, away: bool, disturb) -> Outcome:
    images, store, port = draw_images(work / "parts", 6), work / "store", free_port()
    # The undisturbed run whose digest is expected.
    whole = generate(images, work / "whole")
    manifest = write_manifest(work, images)
    api = f"http://127.0.0.1:{port}/api"
    # A server and a home folder of this drill's own.
    variables = {"PREFECT_API_URL": api, "PREFECT_HOME": str(work / "prefect")}
    command = [sys.executable, "-c", FLOW, str(manifest), str(store)]
    log = work / "flow.log"
    with server(work, port) as first, process(command, log, **variables) as child:
        if not wait_for(begun(store)):
            return Outcome(name, False, "the flow did not begin", "the drill")
        if not away:
            disturb(port)
            child.wait()
        else:
            # Away for a few seconds, then another server with the same database.
            first.kill()
            first.wait()
            time.sleep(AWAY)
            with server(work, port):
                child.wait()
    # The run may survive by itself, or end with an error and succeed when repeated.
    code, tries = child.returncode, "the run went on by itself"
    if code:
        tries = f"the run ended with {code}; the same run again"
        with server(work, port), process(command, log, **variables) as child:
            child.wait()
    found = versions(store, "parts")
    same = bool(found) and found[-1].digest == whole.digest and verify(found[-1].dir).ok
    happened = f"{tries}: the same digest" if same else log.read_text()[-400:]
    return Outcome(name, same, happened, "nothing" if same else "the run")


def write_manifest(work: Path, images: Path) -> Path:
    """The command line of the other drills as a manifest."""
    options = dict(zip(FAST[::2], FAST[1::2], strict=True))
    path = work / "manifest.yaml"
    path.write_text(
        f"image_size: {options['--image-size']}\n"
        f"models: {{inpaint: {{backend: {options['--inpaint']}}}}}\n"
        f"edits: {{per_image: {options['--per-image']}}}\n"
        f"categories: {{parts: {{source: folder, path: {images}}}}}\n"
    )
    return path


@contextmanager
def server(work: Path, port: int) -> Iterator:
    """A Prefect server with its own home folder; it answers when the block begins."""
    program = str(Path(sys.executable).with_name("prefect"))
    command = [program, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with process(command, work / "server.log", PREFECT_HOME=str(work / "prefect")) as child:
        if not wait_for(lambda: answers(port), 180, 0.5):
            raise TimeoutError((work / "server.log").read_text()[-600:])
        yield child


def answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/api/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def free_port() -> int:
    with socket.socket() as place:
        # Port 0: the system chooses a free one.
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
