"""Delete what a store no longer needs: cache entries without a version, remains of killed runs.

An entry of the stage cache is needed when a run of the plan behind a published version would read
it. Plans are saved beside the cache when they are published. Their keys are computed again, so an
entry made by other code, other libraries or another kind of device counts as not needed. Nothing
that a run is using is touched: writers hold a lock, and whatever is locked is left alone. Versions
themselves are never touched.
"""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.dataset.files import BUILDING, PLANS
from pipeline.dataset.version import version_folders, versions
from pipeline.errors import AnomalysmithError, UserError
from pipeline.generation.cache import CACHE, StageCache
from pipeline.generation.cache_keys import PlannedImage, asked_key, parts_key, with_keys
from pipeline.generation.plan import RunPlan, load_plan, saved_plans
from pipeline.utils.files import locked_if_free, named_disk_errors

Kind = Literal["cache entry", "plan", "unfinished version", "aside file"]
_ENTRY = re.compile(r"[0-9a-f]{64}\.npz")
_STAGES = ("analysis", "asked", "normality", "parts", "samples")
# Seconds.
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Orphan:
    """One file or folder that nothing needs; `bytes` is its size, with everything inside."""

    kind: Kind
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class SweepReport:
    """What a sweep found, and deleted unless it was a dry run.

    `kept` and `kept_bytes` count the cache entries that stay; `notes` tell what was left alone.
    """

    orphans: tuple[Orphan, ...]
    kept: int
    kept_bytes: int
    notes: tuple[str, ...]

    def count(self, kind: Kind) -> tuple[int, int]:
        """Number of orphans of a kind, and their bytes."""
        sizes = [orphan.bytes for orphan in self.orphans if orphan.kind == kind]
        return len(sizes), sum(sizes)


def sweep(store: Path, *, dry_run: bool = False, older_than: float = 0.0) -> SweepReport:
    """Find and delete what no version of a store needs.

    `older_than` spares files that were written within so many days. Raises UserError when `store`
    is no store.
    """
    store = Path(store)
    if not store.is_dir():
        what = "a file" if store.exists() else "not there"
        raise UserError(f"{store} is {what}; expected the store folder that `generate` writes to")
    # Modification times: entries are written once and never touched again.
    newest = time.time() - older_than * _DAY
    cache, homes = StageCache(store / CACHE), _categories(store)
    if not homes and not cache.root.is_dir():
        raise UserError(
            f"{store} is no store: it holds neither categories nor a stage cache; "
            "name the folder that `generate` writes to"
        )
    notes: list[str] = []
    found: list[Orphan] = []
    kept: list[int] = []
    # All locks are held until the end: nothing may start to use what was found unneeded.
    with ExitStack() as locks:
        for home in homes:
            if locks.enter_context(locked_if_free(home, touch=not dry_run)):
                found += _of_category(home)
            else:
                notes.append(f"{home.name}: a run is publishing it; left alone")
        if cache.root.is_dir():
            if locks.enter_context(locked_if_free(cache.root, touch=not dry_run)):
                unneeded, kept = _of_cache(store, cache, notes)
                found += unneeded
            else:
                notes.append(f"{cache.root}: a run is using the cache; left alone, try later")
        # A young orphan may belong to a run that is about to continue.
        orphans = [one for one in found if one.path.stat().st_mtime <= newest]
        if len(orphans) < len(found):
            notes.append(f"{len(found) - len(orphans)} younger files were spared")
        if not dry_run:
            with named_disk_errors(store):
                _delete(orphans)
    return SweepReport(tuple(orphans), len(kept), sum(kept), tuple(notes))


def _categories(store: Path) -> list[Path]:
    """Folders of categories: those with a lock file or a version; other folders are not ours."""
    homes = [path for path in sorted(store.iterdir()) if path.is_dir() and path.name[0] != "."]
    return [home for home in homes if (home / ".lock").is_file() or version_folders(home)]


def _of_category(home: Path) -> Iterator[Orphan]:
    """What killed writers left in a category, and notes on versions that were deleted."""
    # Versions that were being built when their process was killed.
    for folder in sorted(home.glob(f"{BUILDING}*")):
        yield _orphan("unfinished version", folder)
    for note in sorted((home / PLANS).glob("*")):
        # A note that was being written, or one on a version that was deleted since.
        if note.suffix == ".tmp":
            yield _orphan("aside file", note)
        elif not (home / note.read_text()).is_dir():
            yield _orphan("plan", note)


def _of_cache(store: Path, cache: StageCache, notes: list[str]) -> tuple[list[Orphan], list[int]]:
    """What lies in a cache unneeded, and the sizes of the entries that stay."""
    needed, orphans = _plans(store, cache, notes)
    kept = []
    # Sort every entry into needed, unfinished or orphan.
    for path in _entries(cache):
        if path.suffix == ".tmp":
            orphans.append(_orphan("aside file", path))
        elif (path.parent.parent.name, path.stem) in needed:
            kept.append(path.stat().st_size)
        else:
            orphans.append(_orphan("cache entry", path))
    return orphans, kept


def _plans(
    store: Path, cache: StageCache, notes: list[str]
) -> tuple[set[tuple[str, str]], list[Orphan]]:
    """The keys that the plans of the versions need; the saved plans without a version."""
    needed: set[tuple[str, str]] = set()
    gone: list[Orphan] = []
    # Category -> plans with a version; read once per category.
    published: dict[str, set[str] | None] = {}
    for path in saved_plans(cache):
        try:
            plan = load_plan(path)
        except (ValueError, KeyError, TypeError):
            # Of another release: no run of this one can use it.
            gone.append(_orphan("plan", path))
            continue
        # A plan is needed while a version of its category was made from it.
        name = plan.settings.name
        if name not in published:
            published[name] = _published(store / name, notes)
        # None: a version of the category cannot be read, so all its plans are kept.
        known = published[name]
        if known is None or plan.digest in known:
            keyed, calibration = _keys(plan, path, notes)
            needed.add(("normality", calibration))
            for image in keyed:
                needed.add(("analysis", image.analysis_key))
                needed.add(("asked", asked_key(image.analysis_key, calibration)))
                needed.add(("parts", parts_key(image.analysis_key)))
                # Images of other categories only donate.
                if not image.category:
                    needed.add(("samples", image.samples_key))
        else:
            gone.append(_orphan("plan", path))
    return needed, gone


def _keys(plan: RunPlan, path: Path, notes: list[str]) -> tuple[Sequence[PlannedImage], str]:
    """All images of the plan with their present keys, and the key of the calibration.

    Where a file that enters the keys is missing (a rule book, a teacher), the keys as saved.
    """
    try:
        keyed, others, calibration = with_keys(
            plan.settings, plan.weights, plan.images, plan.others
        )
        return [*keyed, *others], calibration
    except AnomalysmithError as error:
        notes.append(f"{path.name}: kept the entries it was made with, because {error}")
        return [*plan.images, *plan.others], plan.calibration_key


def _published(home: Path, notes: list[str]) -> set[str] | None:
    """Digests of the plans that led to the versions of a category.

    None when a version cannot be read: then no entry of the category may be deleted.
    """
    read = {version.dir: version.index for version in versions(home.parent, home.name)}
    # `versions` skips unreadable versions; here they must stop the sweep.
    for folder in version_folders(home):
        if folder not in read:
            notes.append(
                f"{folder} cannot be read, so every entry of {home.name} is kept; restore the "
                "version from a copy or delete its folder"
            )
            return None
    # Plans that led to content which an earlier version held already.
    links = [link for link in (home / PLANS).glob("*") if link.suffix != ".tmp"]
    linked = {link.name for link in links if (home / link.read_text()).is_dir()}
    return linked | {str(index.get("plan_digest")) for index in read.values()}


def _entries(cache: StageCache) -> Iterator[Path]:
    """Files that the stage cache has written, finished or not; other files are not ours."""
    for stage in _STAGES:
        for path in sorted((cache.root / stage).glob("??/*")):
            # Other names are not ours and stay.
            if _ENTRY.fullmatch(path.name) or path.suffix == ".tmp":
                yield path
    # Plans that were being written.
    yield from sorted((cache.root / "plans").glob(".*.tmp"))


def _orphan(kind: Kind, path: Path) -> Orphan:
    """A file or folder with its size."""
    # The size of a folder is that of its files.
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return Orphan(kind, path, sum(file.stat().st_size for file in files))


def _delete(orphans: list[Orphan]) -> None:
    """Delete orphans, and folders of the cache that become empty."""
    for orphan in orphans:
        if orphan.path.is_dir():
            shutil.rmtree(orphan.path)
        else:
            orphan.path.unlink()
    for folder in {orphan.path.parent for orphan in orphans}:
        if folder.parent.name in _STAGES:
            # Fails while the folder still holds entries.
            with suppress(OSError):
                folder.rmdir()
