"""Imported by every Python process that has this folder on its path: logs and bars the way out.

Lines of the log: `net ADDRESS` for a connection or a name beyond loopback, `file PATH` for a path
that is opened for writing, made, or renamed to. The network fails, as on a machine without any.
Native code is not seen. See `sealed.py`.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Any

LOG = os.environ.get("SEALED_LOG")
LOOPBACK = ("", "localhost", "::1", "::", "0.0.0.0")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Where in the arguments of an event a new path stands.
NEW_PATH = {"os.mkdir": 0, "os.rename": 1, "os.link": 1, "os.symlink": 1}


def _is_loopback(host: Any) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    return host is None or host in LOOPBACK or host.startswith("127.")


def _what(event: str, words: tuple[Any, ...]) -> str:
    """The line of an event, empty for one that is of no interest."""
    if event in ("socket.connect", "socket.sendto"):
        address = words[1]
        # Addresses of Unix sockets are names.
        remote = isinstance(address, tuple) and not _is_loopback(address[0])
        return f"net {address[0]} port {address[1]}" if remote else ""
    if event == "socket.getaddrinfo":
        return "" if _is_loopback(words[0]) else f"net asks for {words[0]}"
    if event == "open" and isinstance(words[0], str | bytes | Path):
        writes = words[2] & WRITING
        return _file(words[0]) if writes else ""
    if event in NEW_PATH:
        return _file(words[NEW_PATH[event]])
    return ""


def _file(path: Any) -> str:
    place = os.path.abspath(os.fsdecode(path))
    return "" if place.startswith(("/dev/", "/proc/")) else f"file {place}"


def _hook(event: str, words: tuple[Any, ...]) -> None:
    if line := _what(event, words):
        # Not `open`, which would be an event of its own.
        os.write(_log, (line + "\n").encode("utf-8", "backslashreplace"))
        if line.startswith("net "):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))


if LOG:
    # O_APPEND: lines of several processes do not mix.
    _log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.addaudithook(_hook)
