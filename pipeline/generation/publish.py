"""Publish a dataset version atomically.

A version is a folder `<store>/<category>/<NNNN>-<digest12>/` that never changes. It is built in a
hidden folder beside it, `index.json` last, and renamed at the end, so readers see all of it or
nothing. What a killed run leaves behind is hidden, and the next run deletes it. Writers of one
category wait for each other at a lock file.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

from pipeline.dataset.files import CARD, CROISSANT, GALLERY, PLANS
from pipeline.dataset.hdf5_columns import Profile
from pipeline.dataset.hdf5_file import MOST_OPEN
from pipeline.dataset.version import Version, find_by_plan, open_version, version_folders, versions
from pipeline.dataset.version_writer import VersionBuild, VersionHeader, building_folder
from pipeline.errors import UserError, WorkerLost
from pipeline.records import ImageResult, TestImage
from pipeline.reports.audit.run import audit as audit_of
from pipeline.reports.audit.run import parts
from pipeline.reports.card import render_card
from pipeline.reports.croissant import croissant
from pipeline.reports.gallery import Embedded, embedded_images, write_gallery_of
from pipeline.utils.files import locked, named_disk_errors, require_writable, sync, write_atomic
from pipeline.utils.free_memory import give_back
from pipeline.utils.hashing import pretty_json
from pipeline.utils.workers import worker_pool


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
    workers: int = 1,
) -> Version:
    """Write a version and return it, or the one that already holds the same content.

    Both iterables are consumed once and in order, and at most one shard is held in memory.
    `progress` is called with the number of images that are done, `waiting` when another process
    is publishing this category. If that one published the same plan, its version is returned and
    nothing is consumed. With `audit` the index also holds the shortcut and detectability audits.
    So many `workers` make audits and gallery; what they make does not depend on their number.

    Raises UserError for a category name that is no folder name, for `shard_images` below 1, and
    where the store cannot be written.
    """
    if not category or category.startswith(".") or "/" in category:
        raise UserError(
            f"expected a category name that can be a folder name, without '/' and not starting "
            f"with '.', got {category!r}"
        )
    if shard_images < 1:
        raise UserError(f"shard_images must be at least 1, got {shard_images}")
    home = Path(store) / category
    # Before anything is computed.
    require_writable(home)
    with (
        locked(home, waiting=waiting) as waited,
        building_folder(home, header.plan_digest) as folder,
    ):
        # The process that held the lock may have published exactly this plan.
        if waited and (same := find_by_plan(home.parent, category, header.plan_digest)):
            return same
        # Stream all results into the hidden folder.
        build = VersionBuild(folder, category, profile, shard_images, keep_rejects)
        for done, result in enumerate(results, 1):
            build.add(result)
            if progress:
                progress(done)
        # Real test images are stored as they are, beside the samples.
        for image in test:
            build.add_test(image)
        # Only now is the content digest known, and with it the name of the version.
        index = build.finish(header)
        published = versions(home.parent, category)
        for version in published:
            # The same content in another profile is another folder with the same digest.
            if (version.digest, version.index["profile"]) == (index["digest"], index["profile"]):
                # Note which version this plan led to, so that the next run finds it at once.
                with named_disk_errors(home):
                    write_atomic(home / PLANS / header.plan_digest, version.name.encode())
                return open_version(version.dir)
        # Unreadable versions keep their number: a number is never used twice.
        numbers = [int(taken.name.split("-")[0]) for taken in version_folders(home)]
        index["version"] = f"{max(numbers, default=0) + 1:04d}-{index['digest'][:12]}"
        newest = published[-1].name if published else None
        index["parent"] = header.parent or newest
        # Audit and gallery read the shards that were just written, as any reader would.
        give_back(prod(index["image_size"]))
        reports, embedded = _made_at_once(folder, index, workers, audit, gallery)
        if audit:
            index["audit"] = reports or audit_of(Version(folder, index))
        if gallery:
            with named_disk_errors(folder):
                write_gallery_of(Version(folder, index), folder, embedded=embedded)
        documents = {
            CARD: render_card(index).encode(),
            CROISSANT: pretty_json(croissant(index)),
        }
        # The index comes last: a folder with an index is complete.
        build.seal(index, documents)
        with named_disk_errors(home):
            folder.rename(home / index["version"])
            # Only now does the new name itself survive a power cut.
            sync(home)
    return open_version(home / index["version"])


def _made_at_once(
    folder: Path, index: dict[str, Any], workers: int, audit: bool, gallery: bool
) -> tuple[dict[str, Any], Embedded | None]:
    """The audit and the gallery's images of the version in `folder`, by several workers.

    Nothing where one makes them as well, or where one of them was killed.
    """
    if not audit or workers < 2:
        return {}, None

    # Each part has readers of its own, as a reader belongs to one thread.
    def made(part: Callable[[Version], Any]) -> Callable[[], Any]:
        return lambda: part(Version(folder, index))

    calls = {name: made(part) for name, part in parts().items()}
    if gallery:
        calls[GALLERY] = made(embedded_images)
    # Beyond a number of files, the readers of one would close those of another.
    if len(calls) * len(index["shards"]) > MOST_OPEN:
        return {}, None
    # Imported here: a version without an audit needs no torch.
    from pipeline.models.device import one_thread

    with suppress(WorkerLost), worker_pool(min(workers, len(calls)), calls, one_thread) as submit:
        # The longest first.
        futures = {name: submit(name) for name in calls}
        found = {name: future.result() for name, future in futures.items()}
        embedded = found.pop(GALLERY, None)
        return found, embedded
    return {}, None
