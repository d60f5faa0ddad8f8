"""`pins.json`: the SHA-256 that each downloaded or found model file had on first use.

It lies in the same folder as the files. A published digest, where there is one, is checked before a
file is pinned; from then on only the same bytes are accepted. Writing is atomic. A folder without
write permission stays unpinned.
"""

import json
from pathlib import Path

from pipeline.errors import WeightsError
from pipeline.utils.files import NOT_WRITABLE, write_atomic

FILE = "pins.json"


def read(folder: Path) -> dict[str, str]:
    """File name -> hex SHA-256 of everything pinned in that folder; empty without a pin file."""
    path = folder / FILE
    try:
        pins = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise WeightsError(_unreadable(path)) from error
    # Valid JSON of another form is damage as well: a pin must never be ignored silently.
    whole = isinstance(pins, dict) and all(isinstance(value, str) for value in pins.values())
    if not whole:
        raise WeightsError(_unreadable(path))
    return pins


def add(folder: Path, found: dict[str, str]) -> bool:
    """Add these pins (file name -> hex SHA-256); False when the folder cannot be written to."""
    pins = read(folder)
    if all(pins.get(file) == digest for file, digest in found.items()):
        return True
    text = json.dumps(pins | found, indent=2, sort_keys=True) + "\n"
    try:
        write_atomic(folder / FILE, text.encode())
    except OSError as error:
        # On a read-only share the pins are the owner's responsibility.
        if error.errno in NOT_WRITABLE:
            return False
        raise
    return True


def _unreadable(path: Path) -> str:
    return (
        f"{path} is damaged: expected file names with their SHA-256; "
        "delete it, then `anomalysmith weights verify` pins the files again"
    )
