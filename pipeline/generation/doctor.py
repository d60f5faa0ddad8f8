"""What a run would find: every image opened, every model looked up, and what is missing, with how.

Unlike a run, which stops at nothing and records, this looks at everything first and changes
nothing: it decodes each file once, compares masks with images and test files with training files.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.manifest import resolve
from pipeline.config.schema import CategorySettings, Manifest
from pipeline.errors import AnomalysmithError, ImageError, UserError
from pipeline.imaging.decode import file_digest, load_image, read_header
from pipeline.records import SPLITS, SourceEntry
from pipeline.sources.ground_truth import load_regions
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries

Progress = Callable[[int, int], None]
"""Called with (files checked, files in all) of a category."""

DARK = 32
"""A 16-bit image whose brightest pixel stays below this (of 255) holds fewer bits than it says."""


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that a run would leave out, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CategoryHealth:
    """One category's folder. `error` is empty, or says why nothing of it can be used."""

    name: str
    kind: str
    root: str
    licence: str
    error: str = ""
    to_render: bool = False
    splits: Mapping[str, int] = field(default_factory=dict)
    test: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    modes: Mapping[str, int] = field(default_factory=dict)
    masks: int = 0
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WeightsHealth:
    """One model file of the registry; `path` is empty when it is not here."""

    name: str
    stage: str
    path: str
    megabytes: float
    licence: str
    get: str


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """Everything that was found. `missing` are sentences: what, and how to get it."""

    python: str
    cores: int
    device: str
    store: str
    store_writable: bool
    free_gigabytes: float
    needed_gigabytes: float
    weights: tuple[WeightsHealth, ...]
    categories: tuple[CategoryHealth, ...]
    missing: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 all well; 2 something must be mended first; 3 a run works but leaves files out."""
        if self.missing:
            return 2
        return 3 if any(category.bad for category in self.categories) else 0


def inspect(
    manifest: Manifest, categories: Sequence[str] | None = None, progress: Progress | None = None
) -> DoctorReport:
    """Look at everything that a run of these categories (default: all) would use."""
    missing: list[str] = []
    settings = [resolve(manifest, name) for name in categories or manifest.categories]
    found = [_category(category, _models(category, missing), progress) for category in settings]
    missing += [f"{health.name}: {health.error}" for health in found if health.error]
    devices = {}
    for category in settings:
        asked = (category.models.device, category.models.precision)
        if asked not in devices:
            devices[asked] = _device(*asked, missing)
    store = settings[0].store if settings else Path(manifest.folder)
    writable, free = _writable(store), shutil.disk_usage(_nearest_folder(store)).free / 1e9
    needed = sum(map(_gigabytes, settings, found))
    if not writable:
        missing.append(f"store {store}: cannot be written; name another folder as `store`")
    if free < needed:
        missing.append(
            f"store {store}: {free:.1f} GB free, up to {needed:.1f} GB needed; free some space, or "
            "lower edits.per_image or image_size"
        )
    return DoctorReport(
        python=sys.version.split()[0],
        cores=_cores(),
        device="; ".join(dict.fromkeys(devices.values())),
        store=str(store),
        store_writable=writable,
        free_gigabytes=round(free, 1),
        needed_gigabytes=round(needed, 3),
        weights=_weights(missing),
        categories=tuple(found),
        missing=tuple(dict.fromkeys(missing)),
    )


def _category(
    settings: CategorySettings, models: Mapping[str, str], progress: Progress | None
) -> CategoryHealth:
    """One category; an unusable folder becomes `error`, never an exception."""
    base: dict[str, Any] = {
        "name": settings.name,
        "kind": settings.kind,
        "root": str(settings.root),
        "licence": settings.licence,
        "models": models,
    }
    try:
        if settings.scenes is not None and not settings.root.is_dir():
            counts = {"train": settings.scenes.train, "validation": settings.scenes.validation}
            return CategoryHealth(**base, to_render=True, splits=counts)
        listing = read_source(settings.kind, settings.root, settings.name)
    except UserError as error:
        return CategoryHealth(**base, error=str(error).removeprefix(f"{settings.root}: "))
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    bad = [BadFile(problem.name, problem.reason) for problem in listing.problems]
    files: list[_File] = []
    with ThreadPoolExecutor(max_workers=_cores()) as pool:
        checks = pool.map(lambda entry: _check(entry, listing.defects_config), entries)
        for number, file in enumerate(checks, 1):
            files.append(file)
            if progress:
                progress(number, len(entries))
    bad += [BadFile(file.entry.name, file.fault) for file in files if file.fault]
    good = [file for file in files if not file.unreadable]
    return CategoryHealth(
        **base,
        error="" if any(file.entry.split == "train" for file in good) else "no readable normal",
        splits={split: sum(f.entry.split == split for f in good) for split in SPLITS},
        test=_counted(file.entry.defect for file in good if file.entry.split == "test"),
        sizes=_counted(f"{file.size_HW[1]}x{file.size_HW[0]}" for file in good),
        modes=_counted(file.mode for file in good),
        masks=sum(len(file.entry.masks) for file in good),
        bad=tuple(bad),
        notes=(*listing.notes, *_notes(good, settings)),
    )


@dataclass(frozen=True, slots=True)
class _File:
    """One entry after its file was decoded."""

    entry: SourceEntry
    fault: str = ""
    unreadable: bool = False
    size_HW: tuple[int, int] = (0, 0)
    mode: str = ""
    digest: str = ""
    dark: bool = False


def _check(entry: SourceEntry, defects_config: Sequence[dict[str, Any]] | None) -> _File:
    try:
        header = read_header(entry.path)
        image_HW3 = load_image(entry.path)
        digest = file_digest(entry.path)
    except ImageError as error:
        return _File(entry, _without_path(error, entry.path), unreadable=True)
    fault = ""
    if entry.masks:
        try:
            if not len(load_regions(entry, header.size_HW, defects_config)[1]):
                fault = "its masks mark nothing"
        except ImageError as error:
            fault = _without_path(error, entry.path)
    dark = header.mode.startswith("I") and int(image_HW3.max()) < DARK
    return _File(entry, fault, False, header.size_HW, header.mode, digest, dark)


def _notes(files: Sequence[_File], settings: CategorySettings) -> list[str]:
    """What is allowed but worth knowing."""
    notes = []
    size_HW = settings.image_size
    small = sum(f.size_HW[0] < size_HW[0] or f.size_HW[1] < size_HW[1] for f in files)
    if small:
        notes.append(
            f"{small} images are smaller than image_size {size_HW[1]}x{size_HW[0]}; they would be "
            "enlarged, so a smaller image_size loses nothing"
        )
    dark = [file.entry.name for file in files if file.dark]
    if dark:
        notes.append(
            f"{len(dark)} 16-bit images use few of their bits and come out dark ({dark[0]}, ...); "
            "scale them to the full range"
        )
    training = {f.digest: f.entry.name for f in files if f.entry.split != "test"}
    for file in files:
        if file.entry.split == "test" and file.digest in training:
            notes.append(f"{file.entry.name} is the same file as {training[file.digest]}")
    doubles = sum(f.entry.split != "test" for f in files) - len(training)
    if doubles:
        notes.append(f"{doubles} normals are copies of others")
    return notes


def _models(settings: CategorySettings, missing: list[str]) -> dict[str, str]:
    """Stage -> backend and file, as a run would choose them; empty when one is missing."""
    from pipeline.models import build as models

    try:
        files = models.resolve(settings.models, settings.policy.allow_noncommercial)
    except UserError as error:
        missing.append(str(error))
        return {}
    return {
        stage: f"{backend} ({path})" if path else backend
        for stage, (backend, path) in files.used().items()
    }


def _weights(missing: list[str]) -> tuple[WeightsHealth, ...]:
    from pipeline.models.weights import store as weights

    found = []
    for entry in weights.entries():
        path = weights.find(entry.name)
        if entry.bundled and path:
            try:
                weights.check(entry.name, path)
            except AnomalysmithError as error:
                missing.append(str(error))
        found.append(
            WeightsHealth(
                entry.name, entry.stage, str(path or ""), entry.megabytes, entry.licence, entry.get
            )
        )
    return tuple(found)


def _device(device: str, precision: str, missing: list[str]) -> str:
    from pipeline.models import device as devices

    try:
        return devices.choose(device, precision).describe()
    except UserError as error:
        missing.append(str(error))
        return f"{device}: not there"


def _gigabytes(settings: CategorySettings, health: CategoryHealth) -> float:
    """An upper bound for one version: all samples and their masks, uncompressed."""
    normals = health.splits.get("train", 0) + health.splits.get("validation", 0)
    samples = normals * (1 + settings.edits.per_image + settings.edits.controls_per_image)
    pixels = settings.image_size[0] * settings.image_size[1]
    return (samples + health.splits.get("test", 0)) * pixels * 4 / 1e9


def _cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _writable(store: Path) -> bool:
    folder = _nearest_folder(store)
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the first parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _counted(values: Any) -> dict[str, int]:
    """Counts, the commonest first, ties by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _without_path(error: ImageError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")
