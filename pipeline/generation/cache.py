"""The content-addressed stage cache: what one image became, one file per key.

A key is the digest of everything that the result depends on, so an entry never grows stale; it is
only ever absent. An entry is written aside and renamed: `kill -9` leaves no half entry. A file
that does not read back is treated as absent.

Pictures are kept as the window around their change mask, masks as bits.
"""

import json
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import AnomalysmithError
from pipeline.utils.files import locked, naming_the_disk, require_writable

DAMAGED = (
    EOFError, KeyError, NotImplementedError, ValueError,
    struct.error, zipfile.BadZipFile, zlib.error, AnomalysmithError,
)  # fmt: skip
"""What reading a damaged entry can raise; a disk that fails is something else and is not hidden."""

CACHE = ".cache"
"""The folder of the stage cache in a store, beside the categories."""
SHARED_MODE = 0o644
"""A store is shared by the people and workers of one machine; temporary files are private."""


@dataclass(frozen=True, slots=True)
class StageCache:
    """A folder of `<stage>/<2 hex>/<key>.npz`."""

    root: Path

    @contextmanager
    def in_use(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Keep `anomalysmith gc` away; many runs may be inside at once.

        UserError at once where nothing can be written. `waiting` is called when a sweep is going
        on just now.
        """
        require_writable(self.root)
        with locked(self.root, shared=True, waiting=waiting):
            yield

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key[:2] / f"{key}.npz"

    def has(self, stage: str, key: str) -> bool:
        return self.path(stage, key).is_file()

    def write(self, stage: str, key: str, arrays: dict[str, np.ndarray], facts: Any) -> Path:
        """Store arrays and JSON-able facts under a key, whole or not at all."""
        target = self.path(stage, key)
        text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
        with naming_the_disk(self.root):
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
        """Arrays and facts, or None when there is no whole entry."""
        path = self.path(stage, key)
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return arrays, json.loads(arrays.pop("facts").tobytes())
        except FileNotFoundError:
            return None
        except DAMAGED:
            path.unlink(missing_ok=True)
            return None
