"""A real browser and a real server, for tests of the pages."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("ANOMALYSMITH_CHROMIUM", "/usr/bin/chromium"))
# Milliseconds that the browser may take for one step, on a machine that does other work too.
PATIENCE = 60_000


@contextmanager
def chromium() -> Iterator[Any]:
    """The system's Chromium, without a window; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if not CHROMIUM.is_file():
        pytest.skip(f"no {CHROMIUM}: install Chromium, or name it in ANOMALYSMITH_CHROMIUM")
    # Its sandbox does not work for root.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=options)
        yield browser
        browser.close()


@contextmanager
def visitor(browser: Any, address: str, name: str = "Anna", **options: Any) -> Iterator[Any]:
    """A page in a profile of its own, with the name of a reviewer; fails on any script error."""
    context = browser.new_context(base_url=address, **options)
    context.set_default_timeout(PATIENCE)
    if name:
        # Once, so that a later change of the name stays; not in the sandboxed frame of a report.
        context.add_init_script(
            "if (location.protocol === 'http:' && self === top) "
            f"localStorage['anomalysmith.reviewer'] ??= {name!r}"
        )
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text)
            if "Content Security Policy" in message.text else None)  # fmt: skip
    yield page
    context.close()
    assert errors == [], errors


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an application that runs in a thread: quicker than a process."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


class Server:
    """`anomalysmith serve` in a process of its own, always at the port that it had first."""

    def __init__(self, store: Path, *words: str) -> None:
        self._store, self._words, self._port = store, words, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "flows.cli", "serve", str(self._store), *self._words]
        self._process = subprocess.Popen(
            [*command, "--port", str(self._port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        found = re.search(r"http://[\w.]+:(\d+)", said)
        assert found, said
        self.address, self._port = found[0], int(found[1])

    def kill(self) -> None:
        """End it as a power failure would."""
        self._process.kill()
        self._process.wait()


@contextmanager
def served(store: Path, *words: str) -> Iterator[Server]:
    server = Server(store, *words)
    try:
        yield server
    finally:
        server.kill()


def serious_faults(page: Any) -> list[str]:
    """What axe-core finds wrong with a page that keeps somebody from using it."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{page.url} {fault['id']}: {[node['html'][:160] for node in fault['nodes'][:3]]}"
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
