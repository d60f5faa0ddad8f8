"""Dataset versions: publish one whole or not at all, find it again, read it.

A version is a folder `<store>/<category>/<NNNN>-<digest12>/` that never changes. It is built in a
hidden folder beside it and renamed at the end, `index.json` last, so a reader sees all of it or
nothing; whatever a killed run leaves is hidden, and the next run throws it away. Writers of one
category wait for each other at a lock file. Nothing here imports HDF5 before pixels are touched,
because a run that finds everything cached must start quickly.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.attempts import read_attempts
from pipeline.building import (
    INDEX,
    RECORDS,
    VersionBuild,
    VersionHeader,
    building_folder,
    category_lock,
    naming_the_disk,
    write_whole,
)
from pipeline.errors import IntegrityError, UserError
from pipeline.records import SPLITS, ImageResult, TestImage
from pipeline.shardfiles import FORMAT, ShardReader, TestShardReader
from pipeline.shards import Profile, sync

__all__ = [
    "Version",
    "VersionHeader",
    "find_by_plan",
    "latest",
    "open_version",
    "publish",
    "versions",
]

_NAME = re.compile(r"(\d{4,})-[0-9a-f]{12}")


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
            wanted = _chosen(shard.array("samples/kind"), shard.kinds, kind)
            wanted &= np.take(_chosen(shard.array("originals/split"), SPLITS, split), sources)
            for j in np.flatnonzero(wanted).tolist():
                original = shard.original(int(sources[j]))
                yield original, shard.edited(j), shard.mask(j), shard.record(j)

    def test_images(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]]:
        """The real test split: pixels, (K, H, W) bool masks, (K,) uint8 grey values, record."""
        for shard in self.test_shards:
            for i in range(shard.images):
                yield shard.original(i), *shard.masks(i), shard.record(i)

    def attempts(self) -> list[dict[str, Any]]:
        """The table of attempts as rows."""
        return read_attempts(self.dir / RECORDS)


def publish(
    store: Path,
    category: str,
    results: Iterable[ImageResult],
    test: Iterable[TestImage],
    header: VersionHeader,
    *,
    profile: Profile = "default",
    shard_images: int = 256,
    keep_rejects: int = 64,
    gallery: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Version:
    """Write a version and return it, or the one that already holds the same content.

    Both iterables are consumed once and in order, and at most one shard is held in memory.
    `progress` is called with the number of images that are done.
    """
    if not category or category.startswith(".") or "/" in category:
        raise UserError(f"a category is the name of a folder, got {category!r}")
    if shard_images < 1:
        raise UserError(f"shard_images must be at least 1, got {shard_images}")
    home = Path(store) / category
    with naming_the_disk(home):
        home.mkdir(parents=True, exist_ok=True)
    with category_lock(home), building_folder(home, header.plan_digest) as folder:
        build = VersionBuild(folder, category, profile, shard_images, keep_rejects)
        for done, result in enumerate(results, 1):
            build.add(result)
            if progress:
                progress(done)
        for image in test:
            build.add_test(image)
        index = build.finish(header)
        published = versions(home.parent, category)
        for version in published:
            if version.digest == index["digest"]:
                write_whole(home / ".plans" / header.plan_digest, version.name.encode())
                return open_version(version.dir)
        numbers = [int(taken.name.split("-")[0]) for taken in _folders(home)]
        index["version"] = f"{max(numbers, default=0) + 1:04d}-{index['digest'][:12]}"
        index["parent"] = published[-1].name if published else None
        if gallery:
            from pipeline.gallery import write_gallery_of

            with naming_the_disk(folder):
                write_gallery_of(Version(folder, index), folder)
        build.seal(index)
        with naming_the_disk(home):
            folder.rename(home / index["version"])
            sync(home)
    return open_version(home / index["version"])


def open_version(folder: Path) -> Version:
    """The version in a folder, after a look at its index and at the presence of its shards."""
    folder = Path(folder)
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is no dataset version: it holds no {INDEX}") from None
    except ValueError as error:
        raise IntegrityError(f"{folder / INDEX} is damaged: {error}") from error
    number = index.get("format") if isinstance(index, dict) else None
    if number != FORMAT:
        raise UserError(f"{folder} has format {number}, this release reads {FORMAT}")
    missing = {"category", "image_size", "digest", "shards", "counts", "plan_digest"} - set(index)
    if missing:
        raise IntegrityError(f"{folder / INDEX} is damaged: it lacks {sorted(missing)}")
    for shard in index["shards"]:
        path = folder / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes"
            raise IntegrityError(
                f"shard {path} {found}, expected {shard['bytes']} bytes; copy the whole version"
            )
    return Version(folder, index)


def versions(store: Path, category: str) -> list[Version]:
    """The published versions of a category, oldest first; damaged indexes are left out."""
    found = []
    for folder in _folders(Path(store) / category):
        try:
            index = json.loads((folder / INDEX).read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(index, dict) and index.get("format") == FORMAT:
            found.append(Version(folder, index))
    return found


def latest(store: Path, category: str) -> Version | None:
    """The newest version of a category."""
    return next(reversed(versions(store, category)), None)


def find_by_plan(store: Path, category: str, plan_digest: str) -> Version | None:
    """The newest version that a plan led to, also when its content had been published before."""
    for version in reversed(versions(store, category)):
        if version.index.get("plan_digest") == plan_digest:
            return open_version(version.dir)
    alias = Path(store) / category / ".plans" / plan_digest
    if alias.is_file():
        folder = alias.parent.parent / alias.read_text()
        return open_version(folder) if (folder / INDEX).is_file() else None
    return None


def _folders(home: Path) -> list[Path]:
    """The version folders of a category in order of their numbers."""
    if not home.is_dir():
        return []
    found = [path for path in home.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.split("-")[0]))


def _chosen(values: np.ndarray, names: tuple[str, ...], wanted: str | None) -> np.ndarray:
    if wanted is None:
        return np.ones(len(values), np.bool_)
    if wanted not in names:
        raise UserError(f"expected one of {', '.join(names)}, got {wanted!r}")
    return values == names.index(wanted)
