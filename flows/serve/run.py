"""Running the application on a socket that listens already, until it is interrupted."""

import ipaddress
import socket
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import uvicorn

from flows.serve.app import create_app
from flows.serve.comparisons import Comparisons
from flows.serve.safety import Access, is_loopback, names_of

# Seconds that an answer may still take when the server is interrupted.
_GRACE = 3


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is: `host` as it was asked for, and what a browser opens."""

    host: str
    port: int
    token: str | None

    @classmethod
    def of(cls, host: str, listener: socket.socket, token: str | None) -> Self:
        """Of a listening socket, whose port may have been chosen by the system."""
        return cls(host, int(listener.getsockname()[1]), token)

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def any_address(self) -> bool:
        """True for 0.0.0.0 and ::, which stand for every address of the machine."""
        with suppress(ValueError):
            return ipaddress.ip_address(self.host).is_unspecified
        return False

    @property
    def url(self) -> str:
        name = socket.gethostname() if self.any_address else self.host
        name = f"[{name}]" if ":" in name else name
        token = f"?token={self.token}" if self.token else ""
        return f"http://{name}:{self.port}/{token}"


def run(
    store: Path,
    listener: socket.socket,
    address: Address,
    runs: Sequence[Path],
    *,
    rule_books: Path | None,
    read_only: bool,
    browser: bool,
) -> None:
    """Serve until SIGINT or SIGTERM."""
    machine = () if address.loopback else (socket.gethostname(),)
    access = Access(
        hosts=names_of(address.host, machine),
        token=address.token,
        read_only=read_only,
        any_address=address.any_address,
    )
    comparisons = Comparisons()
    app = create_app(
        store, runs=runs, access=access, rule_books=rule_books, comparisons=comparisons
    )
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        # Headers of a proxy would change the address that requests are judged by.
        proxy_headers=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=_GRACE,
    )
    if browser:
        # A text browser would hold up the server; the socket listens already.
        threading.Thread(target=webbrowser.open, args=(address.url,), daemon=True).start()
    try:
        # Ctrl-C is how it ends, hence no error.
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        comparisons.close()
