"""Reading versions: open one, list them, find the one that a plan led to, iterate its samples.

A published version never changes, so readers take no lock. Nothing here imports HDF5 before pixels
are read, because a run that finds its version published must end quickly.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.dataset.attempts import read_attempts
from pipeline.dataset.files import FORMAT, INDEX, PLANS, RECORDS
from pipeline.dataset.index_schema import VERSION_NAME, fault
from pipeline.dataset.shard_reader import ShardReader, TestShardReader
from pipeline.errors import IntegrityError, UserError
from pipeline.kinds import KINDS
from pipeline.records import SPLITS

# What to do about a damaged version. Nothing is repaired silently, because damage has a cause.
REPAIR = "restore the version from a copy, or delete its folder and run `generate` again"


@dataclass(frozen=True)
class Version:
    """A published version: its folder and its index. Cheap to pickle and safe to fork."""

    dir: Path
    index: dict[str, Any]

    @property
    def name(self) -> str:
        return self.dir.name

    @property
    def category(self) -> str:
        return self.index["category"]

    @property
    def digest(self) -> str:
        """The digest of the whole dataset: equal digests, equal content."""
        return self.index["digest"]

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        height, width = self.index["image_size"]
        return height, width

    # Readers open their files on first use, so these cost nothing until pixels are read.
    @cached_property
    def shards(self) -> tuple[ShardReader, ...]:
        """Readers of the images and their accepted samples, in order."""
        return tuple(ShardReader(path) for path in self._files("samples"))

    @cached_property
    def rejects(self) -> ShardReader | None:
        """The reader of the kept rejected samples, or None."""
        return next((ShardReader(path) for path in self._files("rejects")), None)

    @cached_property
    def test_shards(self) -> tuple[TestShardReader, ...]:
        """Readers of the real test split, in order; empty where the source has none."""
        return tuple(TestShardReader(path) for path in self._files("test"))

    def _files(self, role: str) -> list[Path]:
        return [self.dir / shard["file"] for shard in self.index["shards"] if shard["role"] == role]

    def images(self, split: str | None = None) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        """Every normal image: (H, W, 3) uint8 pixels and its record."""
        for shard in self.shards:
            for i in np.flatnonzero(_chosen(shard.array("originals/split"), SPLITS, split)):
                yield shard.original(int(i)), shard.image_record(int(i))

    def samples(
        self, split: str | None = None, kind: str | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
        """Every accepted sample: original, edited (H, W, 3) uint8, mask (H, W) bool, record."""
        for shard in self.shards:
            sources = shard.array("samples/source")
            # The shard is older than the kind, so it has no sample of it.
            if kind in KINDS and kind not in shard.kinds:
                continue
            wanted = _chosen(shard.array("samples/kind"), shard.kinds, kind)
            # The split belongs to the source image, so it is looked up through `source`.
            wanted &= np.take(_chosen(shard.array("originals/split"), SPLITS, split), sources)
            for j in np.flatnonzero(wanted).tolist():
                original = shard.original(int(sources[j]))
                yield original, shard.edited(j), shard.mask(j), shard.record(j)

    def test_images(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
        """The real test split: pixels, (K, H, W) bool masks, (K,) uint8 pixel values, record."""
        for shard in self.test_shards:
            for i in range(shard.images):
                yield shard.original(i), *shard.masks(i), shard.record(i)

    def attempts(self) -> list[dict[str, Any]]:
        """The table of attempts as rows."""
        return read_attempts(self.dir / RECORDS)


def open_version(folder: Path) -> Version:
    """The version in a folder, once its index and the sizes of its shards have been checked.

    UserError when there is no version or one of another format, IntegrityError when it is damaged.
    """
    folder = Path(folder)
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise no_version(folder) from None
    # A damaged file may nest brackets deeper than the JSON parser can recurse.
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{folder / INDEX} is damaged: {error}; {REPAIR}") from error
    # The format comes first: another format may have another index altogether.
    number = index.get("format") if isinstance(index, dict) else None
    if number != FORMAT:
        raise UserError(f"{folder} has format {number}, this release reads {FORMAT}")
    if wrong := fault(index):
        raise IntegrityError(f"{folder / INDEX} is damaged: {wrong}; {REPAIR}")
    # Sizes find shards that are missing or cut short without reading them; `verify` reads them.
    for shard in index["shards"]:
        path = folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise IntegrityError(f"shard {path} {found}, expected {shard['bytes']} bytes; {REPAIR}")
    return Version(folder, index)


def no_version(folder: Path) -> UserError:
    """The error for a path that is no version; it says what is there instead."""
    if not folder.exists():
        found = "there is no such folder"
    elif folder.is_file():
        found = "it is a file; name the folder of a version"
    elif inside := version_folders(folder):
        found = f"it holds {len(inside)}; name one, such as {inside[-1]}"
    else:
        found = f"it holds no {INDEX}"
    return UserError(f"{folder} is no dataset version: {found}")


def versions(store: Path, category: str) -> list[Version]:
    """The published versions of a category, oldest first; damaged indexes are left out."""
    found = []
    # One damaged version must not hide the others; `open_version` and `verify` report it.
    for folder in version_folders(Path(store) / category):
        try:
            index = json.loads((folder / INDEX).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        # Versions of another format belong to another release.
        if isinstance(index, dict) and index.get("format") == FORMAT and not fault(index):
            found.append(Version(folder, index))
    return found


def latest(store: Path, category: str) -> Version | None:
    """The newest version of a category."""
    return next(reversed(versions(store, category)), None)


def find_by_plan(store: Path, category: str, plan_digest: str) -> Version | None:
    """The newest version that a plan led to, also when its content had been published before."""
    # The newest first: `open_version` then also checks the sizes of its shards.
    for version in reversed(versions(store, category)):
        if version.index.get("plan_digest") == plan_digest:
            return open_version(version.dir)
    # The plan led to content that another plan had published.
    alias = Path(store) / category / PLANS / plan_digest
    name = alias.read_text("utf-8", "replace") if alias.is_file() else ""
    # The file may have been edited; only the name of a version is followed.
    if not VERSION_NAME.fullmatch(name):
        return None
    folder = alias.parent.parent / name
    return open_version(folder) if (folder / INDEX).is_file() else None


def version_folders(home: Path) -> list[Path]:
    """The version folders of a category in order of their numbers."""
    # A category without versions has no folder yet.
    if not home.is_dir():
        return []
    found = [path for path in home.iterdir() if VERSION_NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[0]))


def _chosen(values: np.ndarray, names: tuple[str, ...], wanted: str | None) -> np.ndarray:
    """Bool mask of the values that stand for a name; all of them for None."""
    if wanted is None:
        return np.ones(len(values), np.bool_)
    if wanted not in names:
        raise UserError(f"expected one of {', '.join(names)}, got {wanted!r}")
    return values == names.index(wanted)
