"""The content-addressed stage cache: the result of one stage for one image, one file per key.

A key is the digest of everything that the result depends on, so an entry is never stale, only
absent. Entries are written to a temporary file and renamed: `kill -9` leaves no partial entry. A
file that cannot be read back is treated as absent.

Edited images are stored as the window around their change mask, masks as bits.
"""

import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import AnomalysmithError
from pipeline.utils.files import locked, named_disk_errors, require_writable

# What reading a damaged entry can raise. OSError is not among them: a failing disk must not look
# like a missing entry.
DAMAGED = (
    EOFError, KeyError, NotImplementedError, ValueError,
    struct.error, zipfile.BadZipFile, zlib.error, AnomalysmithError,
)  # fmt: skip
# The folder of the stage cache in a store, beside the categories. Hidden, so no category has it.
CACHE = ".cache"
# `mkstemp` makes files that only their owner may read, but a store is shared by several users.
SHARED_MODE = 0o644


@dataclass(frozen=True, slots=True)
class StageCache:
    """A folder of `<stage>/<2 hex>/<key>.npz`."""

    root: Path

    @contextmanager
    def in_use(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep `anomalysmith gc` from deleting entries; many runs may hold this at once.

        Raises UserError at once where nothing can be written. `waiting` is called when a sweep is
        in progress.
        """
        require_writable(self.root)
        with locked(self.root, shared=True, waiting=waiting):
            yield

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / f"{key}.npz"

    def has(self, stage: str, key: str) -> bool:
        """True when the file exists and may be read; it may still be damaged."""
        path = self.path(stage, key)
        # First: in a folder that may not be entered, `is_file` raises.
        return os.access(path, os.R_OK) and path.is_file()

    def write(self, stage: str, key: str, arrays: dict[str, np.ndarray], facts: Any) -> Path:
        """Store arrays and JSON-able facts under a key, atomically.

        Raises UserError where the disk is full or cannot be written.
        """
        target = self.path(stage, key)
        # The JSON goes into the same file, as bytes: two files could not appear atomically.
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with named_disk_errors(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(suffix=".tmp", dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    np.savez(file, allow_pickle=False, facts=text, **arrays)
                Path(name).chmod(SHARED_MODE)
                Path(name).replace(target)
            except BaseException:
                Path(name).unlink(missing_ok=True)
                raise
        return target

    def read(self, stage: str, key: str) -> tuple[dict[str, np.ndarray], Any] | None:
        """Arrays and facts, or None when there is no intact entry that this user may read."""
        path = self.path(stage, key)
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return arrays, json.loads(arrays.pop("facts").tobytes())
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except DAMAGED:
            # Deleted, so that `has` does not find what `read` cannot; in a store that may only be
            # read it stays.
            with suppress(OSError):
                path.unlink()
            return None
