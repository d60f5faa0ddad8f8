"""Drills around Prefect: the server goes away in mid-run, its database is locked, a worker dies."""

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
    draw_photographs,
    generate,
    process,
    wait_for,
)
from pipeline.dataset.verify import verify
from pipeline.dataset.version import versions

AWAY, LOCKED = 5.0, 12.0
"""Seconds without a server, and with a locked database."""
FLOW = """
import sys
from flows.generate import generate_anomalies
generate_anomalies(manifest=sys.argv[1], store=sys.argv[2], workers=1, batch_size=1)
"""


def restarted(work: Path) -> Outcome:
    """The server is killed in mid-run and started again with the same database."""

    def disturb(port: int) -> None:
        pass

    return _drill(work, "server restarted", away=True, disturb=disturb)


def locked(work: Path) -> Outcome:
    """Somebody else holds the server's SQLite database for a while, exclusively."""
    database = work / "prefect" / "prefect.db"

    def disturb(port: int) -> None:
        with sqlite3.connect(database, timeout=30, isolation_level=None) as other:
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(LOCKED)
            other.execute("ROLLBACK")

    return _drill(work, "database locked", away=False, disturb=disturb)


def _drill(work: Path, name: str, away: bool, disturb) -> Outcome:
    photos, store, port = draw_photographs(work / "parts", 6), work / "store", free_port()
    whole = generate(photos, work / "whole")
    manifest = write_manifest(work, photos)
    api = f"http://127.0.0.1:{port}/api"
    variables = {"PREFECT_API_URL": api, "PREFECT_HOME": str(work / "prefect")}
    words = [sys.executable, "-c", FLOW, str(manifest), str(store)]
    log = work / "flow.log"
    with server(work, port) as first, process(words, log, **variables) as child:
        if not wait_for(begun(store)):
            return Outcome(name, False, "the flow did not begin", "the drill")
        if not away:
            disturb(port)
            child.wait()
        else:
            first.kill()
            first.wait()
            time.sleep(AWAY)
            with server(work, port):
                child.wait()
    code, tries = child.returncode, "the run went on by itself"
    if code:
        tries = f"the run ended with {code}; the same run again"
        with server(work, port), process(words, log, **variables) as child:
            child.wait()
    found = versions(store, "parts")
    same = bool(found) and found[-1].digest == whole.digest and verify(found[-1].dir).ok
    happened = f"{tries}: the same digest" if same else log.read_text()[-400:]
    return Outcome(name, same, happened, "nothing" if same else "the run")


def write_manifest(work: Path, photos: Path) -> Path:
    """What the command line says in the other drills, as a manifest."""
    options = dict(zip(FAST[::2], FAST[1::2], strict=True))
    path = work / "manifest.yaml"
    path.write_text(
        f"image_size: {options['--image-size']}\n"
        f"models: {{inpaint: {{backend: {options['--inpaint']}}}}}\n"
        f"edits: {{per_image: {options['--per-image']}}}\n"
        f"categories: {{parts: {{source: folder, path: {photos}}}}}\n"
    )
    return path


@contextmanager
def server(work: Path, port: int) -> Iterator:
    """A Prefect server with its own home, answering."""
    program = str(Path(sys.executable).with_name("prefect"))
    words = [program, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
    with process(words, work / "server.log", PREFECT_HOME=str(work / "prefect")) as child:
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
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])
