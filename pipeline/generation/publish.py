"""Publish a dataset version whole or not at all.

A version is a folder `<store>/<category>/<NNNN>-<digest12>/` that never changes. It is built in a
hidden folder beside it and renamed at the end, `index.json` last, so a reader sees all of it or
nothing; whatever a killed run leaves is hidden, and the next run throws it away. Writers of one
category wait for each other at a lock file.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.dataset.files import CARD, CROISSANT, PLANS
from pipeline.dataset.hdf5_columns import Profile
from pipeline.dataset.version import Version, find_by_plan, open_version, version_folders, versions
from pipeline.dataset.version_writer import VersionBuild, VersionHeader, building_folder
from pipeline.errors import UserError
from pipeline.records import ImageResult, TestImage
from pipeline.reports.audit.run import audit as audit_of
from pipeline.reports.card import render_card
from pipeline.reports.croissant import croissant
from pipeline.reports.gallery import write_gallery_of
from pipeline.utils.files import locked, naming_the_disk, require_writable, sync, write_whole
from pipeline.utils.hashing import pretty_json


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
    audit: bool = False,
    progress: Callable[[int], None] | None = None,
    waiting: Callable[[], None] | None = None,
) -> Version:
    """Write a version and return it, or the one that already holds the same content.

    Both iterables are consumed once and in order, and at most one shard is held in memory.
    `progress` is called with the number of images that are done, `waiting` when another process
    is publishing this category. If that one published the same plan, its version is returned and
    nothing is consumed. With `audit` the index says what a trivial probe makes of the samples.
    """
    if not category or category.startswith(".") or "/" in category:
        raise UserError(f"a category is the name of a folder, got {category!r}")
    if shard_images < 1:
        raise UserError(f"shard_images must be at least 1, got {shard_images}")
    home = Path(store) / category
    require_writable(home)
    with (
        locked(home, waiting=waiting) as waited,
        building_folder(home, header.plan_digest) as folder,
    ):
        if waited and (same := find_by_plan(home.parent, category, header.plan_digest)):
            return same
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
            # The same content in another profile is another folder with the same digest.
            if (version.digest, version.index["profile"]) == (index["digest"], index["profile"]):
                with naming_the_disk(home):
                    write_whole(home / PLANS / header.plan_digest, version.name.encode())
                return open_version(version.dir)
        numbers = [int(taken.name.split("-")[0]) for taken in version_folders(home)]
        index["version"] = f"{max(numbers, default=0) + 1:04d}-{index['digest'][:12]}"
        index["parent"] = published[-1].name if published else None
        if audit:
            index["audit"] = audit_of(Version(folder, index))
        if gallery:
            with naming_the_disk(folder):
                write_gallery_of(Version(folder, index), folder)
        documents = {
            CARD: render_card(index).encode(),
            CROISSANT: pretty_json(croissant(index)),
        }
        build.seal(index, documents)
        with naming_the_disk(home):
            folder.rename(home / index["version"])
            sync(home)
    return open_version(home / index["version"])
