"""`pins.json`: the SHA-256 that each fetched or found model file had when it was first used.

It lies beside the files. A published digest, where there is one, was met before a file is pinned;
from then on the same bytes are asked for. Writing is atomic; a folder that cannot be written to
stays unpinned.
"""

import errno
import json
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.utils.files import write_whole

FILE = "pins.json"

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS)


def read(folder: Path) -> dict[str, str]:
    """File name -> hex SHA-256, of everything pinned in that folder."""
    path = folder / FILE
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(_unreadable(path)) from error
    whole = isinstance(pins, dict) and all(isinstance(value, str) for value in pins.values())
    if not whole:
        raise WeightsError(_unreadable(path))
    return pins


def add(folder: Path, found: dict[str, str]) -> bool:
    """Pin these files as well; False when the folder cannot be written to."""
    pins = read(folder)
    if all(pins.get(file) == digest for file, digest in found.items()):
        return True
    text = json.dumps(pins | found, indent=2, sort_keys=True) + "\n"
    try:
        write_whole(folder / FILE, text.encode())
    except OSError as error:
        if error.errno in _CANNOT_WRITE:  # a read-only share: its owner pins it
            return False
        raise
    return True


def _unreadable(path: Path) -> str:
    return (
        f"{path} is not what was written: expected file names with their SHA-256; "
        "delete it, then `anomalysmith weights verify` pins the files anew"
    )
