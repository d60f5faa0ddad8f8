"""What a store no longer needs: cache entries that no version was made from, leftovers of the dead.

An entry of the stage cache is needed when a run of the plan behind a published version would ask
for it. Plans lie beside the cache since they were published; their keys are worked out anew, so an
entry that other code, other libraries or another kind of device made counts as not needed. Nothing
that a run is using is touched: who writes holds a lock, and what is locked is left alone. Versions
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
from pipeline.generation.cache_keys import PlannedImage, with_keys
from pipeline.generation.plan import RunPlan, load_plan, saved_plans
from pipeline.utils.files import locked_if_free, naming_the_disk

Kind = Literal["cache entry", "plan", "unfinished version", "aside file"]
_ENTRY = re.compile(r"[0-9a-f]{64}\.npz")
_STAGES = ("analysis", "normality", "samples")
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Leftover:
    """One file or folder that nothing needs. `bytes` counts what lies in it."""

    kind: Kind
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep found, and took away unless it was a dry run.

    `kept` and `kept_bytes` count the cache entries that stay; `remarks` say what was left alone.
    """

    leftovers: tuple[Leftover, ...]
    kept: int
    kept_bytes: int
    remarks: tuple[str, ...]

    def count(self, kind: Kind) -> tuple[int, int]:
        """How many leftovers of a kind, and their bytes."""
        sizes = [leftover.bytes for leftover in self.leftovers if leftover.kind == kind]
        return len(sizes), sum(sizes)


def sweep(store: Path, *, dry_run: bool = False, older_than: float = 0.0) -> Swept:
    """Find and take away what no version of a store needs and nobody touched for some days.

    `older_than` counts days since a file was written. UserError when `store` is no folder.
    """
    store = Path(store)
    if not store.is_dir():
        what = "a file" if store.exists() else "not there"
        raise UserError(f"{store} is {what}; expected the folder of a store, such as generate made")
    newest = time.time() - older_than * _DAY
    cache, homes = StageCache(store / CACHE), _categories(store)
    if not homes and not cache.root.is_dir():
        raise UserError(f"{store} is no store: it holds neither categories nor a stage cache")
    remarks: list[str] = []
    found: list[Leftover] = []
    kept: list[int] = []
    with ExitStack() as locks:
        for home in homes:
            if locks.enter_context(locked_if_free(home, touch=not dry_run)):
                found += _of_category(home)
            else:
                remarks.append(f"{home.name}: a run is publishing it; left alone")
        if cache.root.is_dir():
            if locks.enter_context(locked_if_free(cache.root, touch=not dry_run)):
                unneeded, kept = _of_cache(store, cache, remarks)
                found += unneeded
            else:
                remarks.append(f"{cache.root}: a run is using the cache; left alone, try later")
        leftovers = [one for one in found if one.path.stat().st_mtime <= newest]
        if len(leftovers) < len(found):
            remarks.append(f"{len(found) - len(leftovers)} younger leftovers were spared")
        if not dry_run:
            with naming_the_disk(store):
                _take_away(leftovers)
    return Swept(tuple(leftovers), len(kept), sum(kept), tuple(remarks))


def _categories(store: Path) -> list[Path]:
    homes = [path for path in sorted(store.iterdir()) if path.is_dir() and path.name[0] != "."]
    return [home for home in homes if (home / ".lock").is_file() or version_folders(home)]


def _of_category(home: Path) -> Iterator[Leftover]:
    """What dead writers left in a category whose lock is held, and notes on versions now gone."""
    for folder in sorted(home.glob(f"{BUILDING}*")):
        yield _leftover("unfinished version", folder)
    for note in sorted((home / PLANS).glob("*")):
        if note.suffix == ".tmp":
            yield _leftover("aside file", note)
        elif not (home / note.read_text()).is_dir():
            yield _leftover("plan", note)


def _of_cache(
    store: Path, cache: StageCache, remarks: list[str]
) -> tuple[list[Leftover], list[int]]:
    """What lies in a cache unneeded, and the sizes of the entries that stay."""
    needed, leftovers = _plans(store, cache, remarks)
    kept = []
    for path in _entries(cache):
        if path.suffix == ".tmp":
            leftovers.append(_leftover("aside file", path))
        elif (path.parent.parent.name, path.stem) in needed:
            kept.append(path.stat().st_size)
        else:
            leftovers.append(_leftover("cache entry", path))
    return leftovers, kept


def _plans(
    store: Path, cache: StageCache, remarks: list[str]
) -> tuple[set[tuple[str, str]], list[Leftover]]:
    """The keys that the plans of the versions ask for; the saved plans without a version."""
    needed: set[tuple[str, str]] = set()
    gone: list[Leftover] = []
    published: dict[str, set[str] | None] = {}
    for path in saved_plans(cache):
        try:
            plan = load_plan(path)
        except (ValueError, KeyError, TypeError):  # of another release: nobody can ask for it
            gone.append(_leftover("plan", path))
            continue
        name = plan.settings.name
        if name not in published:
            published[name] = _published(store / name, remarks)
        known = published[name]
        if known is None or plan.digest in known:
            keyed, calibration = _keys(plan, path, remarks)
            needed.add(("normality", calibration))
            for image in keyed:
                needed.update([("analysis", image.analysis_key), ("samples", image.samples_key)])
        else:
            gone.append(_leftover("plan", path))
    return needed, gone


def _keys(plan: RunPlan, path: Path, remarks: list[str]) -> tuple[Sequence[PlannedImage], str]:
    """The plan's images with the keys of today, and the key of what is normal.

    Where a file that enters them is gone (a rule book, a teacher), the keys of then.
    """
    try:
        return with_keys(plan.settings, plan.weights, plan.images)
    except AnomalysmithError as error:
        remarks.append(f"{path.name}: entries kept as of its making, because {error}")
        return plan.images, plan.calibration_key


def _published(home: Path, remarks: list[str]) -> set[str] | None:
    """Digests of the plans that led to the versions of a category; None when one is unreadable."""
    read = {version.dir: version.index for version in versions(home.parent, home.name)}
    for folder in version_folders(home):
        if folder not in read:
            remarks.append(
                f"{folder} cannot be read, so every entry of {home.name} is kept; restore the "
                "version from a copy or delete its folder"
            )
            return None
    notes = [note for note in (home / PLANS).glob("*") if note.suffix != ".tmp"]
    again = {note.name for note in notes if (home / note.read_text()).is_dir()}
    return again | {str(index.get("plan_digest")) for index in read.values()}


def _entries(cache: StageCache) -> Iterator[Path]:
    for stage in _STAGES:
        for path in sorted((cache.root / stage).glob("??/*")):
            if _ENTRY.fullmatch(path.name) or path.suffix == ".tmp":
                yield path
    yield from sorted((cache.root / "plans").glob(".*.tmp"))


def _leftover(kind: Kind, path: Path) -> Leftover:
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return Leftover(kind, path, sum(file.stat().st_size for file in files))


def _take_away(leftovers: list[Leftover]) -> None:
    for leftover in leftovers:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink()
    for folder in {leftover.path.parent for leftover in leftovers}:
        if folder.parent.name in _STAGES:
            with suppress(OSError):  # it still holds entries
                folder.rmdir()
