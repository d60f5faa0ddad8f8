"""Versions that are open: a version never changes, so its table is built once and kept.

`lock` guards all shards: a process keeps some hundred of them open and closes the oldest, which two
threads must not do to one another. Read arrays inside of it, and encode images outside.
"""

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from flows.serve.paths import Store
from flows.serve.table import Table, read_table
from pipeline.dataset.files import INDEX
from pipeline.dataset.version import Version, open_version

# Versions whose tables are kept; one of 100 000 samples takes some 20 MB.
MOST_OPEN = 8


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """A version with its table of samples."""

    # Its category as the store's listing names it, for addresses.
    category: str
    version: Version
    table: Table
    # One for all versions.
    lock: Lock

    @property
    def address(self) -> tuple[str, str]:
        """Category and name: what every address of the version begins with."""
        return self.category, self.version.name


class OpenVersions:
    """The versions of a store by name, the last used ones kept open."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._kept: OrderedDict[tuple[Path, int, int], Opened] = OrderedDict()
        self._lock, self._shards = Lock(), Lock()

    def get(self, category: str, name: str) -> Opened:
        """The version of that name; 404 when there is none, IntegrityError when it is damaged."""
        folder = self.store.version_dir(category, name)
        # A folder may be deleted and generated again while the server runs.
        stat = (folder / INDEX).stat() if (folder / INDEX).is_file() else None
        key = (folder, stat.st_mtime_ns if stat else 0, stat.st_size if stat else 0)
        with self._lock:
            if key not in self._kept:
                version = open_version(folder)
                self._kept[key] = Opened(category, version, read_table(version), self._shards)
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_OPEN:
                self._kept.popitem(last=False)
            return self._kept[key]
