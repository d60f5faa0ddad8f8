"""Check everything that a run would use: images, masks, models, device, store.

A run records bad files and goes on; this finds them beforehand and changes nothing. It reads each
file to its end, compares masks with images and test files with training files, and tells how to get
what is missing.
"""

import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.manifest import resolve
from pipeline.config.schema import CategorySettings, Manifest
from pipeline.errors import ImageError, UserError
from pipeline.generation.doctor_models import (
    WeightsHealth,
    asked_device,
    chosen_models,
    device_in_words,
    rehearse,
    weights_health,
)
from pipeline.imaging.decode import check_image, file_digest, load_image, read_header
from pipeline.imaging.mask_doubts import MaskDoubt, mask_doubt
from pipeline.records import SPLITS, SourceEntry
from pipeline.sources.ground_truth import load_regions
from pipeline.sources.listing import read_source
from pipeline.sources.splits import split_entries
from pipeline.utils.free_cpus import usable_cpus
from pipeline.utils.names import text_of
from pipeline.utils.repeated import first_few

# Called with (files checked, files in all) of a category.
Progress = Callable[[int, int], None]

# A 16-bit image whose brightest pixel is below this (of 255, after decoding) uses only its lower
# bits: typically 12-bit camera data, which would come out almost black.
DARK = 32


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that a run would skip, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class CategoryHealth:
    """The images and models of one category.

    `error` is empty, or tells why none of its images can be used. `splits`, `test` (by kind of
    defect), `sizes` (as WxH) and `modes` (of PIL) are counts of readable files. `doubts` are masks
    that can hardly be meant. `tried` says how the models ran on one of the images; empty if nobody
    asked.
    """

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
    doubts: tuple[MaskDoubt, ...] = ()
    bad: tuple[BadFile, ...] = ()
    notes: tuple[str, ...] = ()
    models: Mapping[str, str] = field(default_factory=dict)
    tried: str = ""


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """The result of all checks. `missing` are sentences: what is missing and how to get it."""

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
        """0 all well; 2 something must be fixed first; 3 a run works but skips files."""
        if self.missing:
            return 2
        return 3 if any(category.bad for category in self.categories) else 0


def inspect(
    manifest: Manifest, categories: Sequence[str] | None = None, progress: Progress | None = None
) -> DoctorReport:
    """Check everything that a run of these categories (default: all) would use; see `examine`."""
    return examine(
        [resolve(manifest, name) for name in categories or manifest.categories], progress
    )


def examine(
    settings: Sequence[CategorySettings], progress: Progress | None = None, deep: bool = False
) -> DoctorReport:
    """Check everything that a run with these settings, one or more, would use.

    What is wrong with one category is reported and does not keep the others from being checked.
    `deep` also decodes every pixel, loads the models and runs them on one image of each category.
    """
    # Messages are collected here by all checks, in the order of the categories.
    missing: list[str] = []
    found = []
    for category in settings:
        models = chosen_models(category, missing)
        health, image = _category(category, models, progress, deep)
        if deep and image is not None and models:
            health = replace(health, tried=rehearse(category, image, missing))
        found.append(health)
    # Unusable folders count as missing, after the models of all categories.
    missing += [f"{health.name}: {health.error}" for health in found if health.error]
    # Categories mostly share one device: check and report it once.
    devices, describe = {}, asked_device if deep else device_in_words
    for category in settings:
        compute = (category.models.device, category.models.precision)
        if compute not in devices:
            devices[compute] = describe(*compute, missing)
    # A manifest has one store for all categories.
    store = settings[0].store
    # The store may not exist yet, so its nearest existing folder is checked.
    writable, free = _writable(store), shutil.disk_usage(_nearest_folder(store)).free / 1e9
    needed = sum(map(_gigabytes, settings, found))
    if not writable:
        missing.append(f"store {store}: cannot be written to; set `store` to another folder")
    # An upper bound, so a run may still fit; but a full disk stops it late.
    if free < needed:
        missing.append(
            f"store {store}: {free:.1f} GB free, up to {needed:.1f} GB needed; free some space, or "
            "lower edits.per_image or image_size"
        )
    return DoctorReport(
        # The number alone, without compiler and build date.
        python=sys.version.split()[0],
        cores=usable_cpus(),
        device="; ".join(dict.fromkeys(devices.values())),
        store=str(store),
        store_writable=writable,
        free_gigabytes=round(free, 1),
        needed_gigabytes=round(needed, 3),
        weights=weights_health(missing),
        categories=tuple(found),
        # Several categories may lack the same model: say it once.
        missing=tuple(dict.fromkeys(missing)),
    )


def _category(
    settings: CategorySettings, models: Mapping[str, str], progress: Progress | None, deep: bool
) -> tuple[CategoryHealth, Path | None]:
    """One category and its first good training image; an unusable folder is reported as `error`."""
    base: dict[str, Any] = {
        "name": settings.name,
        "kind": settings.kind,
        "root": text_of(settings.root),
        "licence": settings.licence,
        "models": models,
    }
    try:
        # Example scenes are rendered on the first run: only their numbers are known.
        if settings.scenes is not None and not settings.root.is_dir():
            counts = {"train": settings.scenes.train, "validation": settings.scenes.validation}
            return CategoryHealth(**base, to_render=True, splits=counts), None
        listing = read_source(
            settings.kind, settings.root, settings.name, settings.follow_links, settings.options
        )
    except UserError as error:
        why = str(error).removeprefix(f"{text_of(settings.root)}: ")
        return CategoryHealth(**base, error=why), None
    entries = split_entries(
        listing.entries, settings.splits.validation_fraction, settings.split_seed
    )
    # First what the listing of the folder found, then what reading the files found.
    bad = [BadFile(problem.name, problem.reason) for problem in listing.problems]
    files: list[_File] = []
    # Decoding releases the interpreter lock, so threads suffice.
    with ThreadPoolExecutor(max_workers=usable_cpus()) as pool:
        checks = pool.map(lambda entry: _check(entry, listing.defects_config, deep), entries)
        for number, file in enumerate(checks, 1):
            files.append(file)
            if progress:
                progress(number, len(entries))
    # Undecodable images, and images whose masks are undecodable or of another size.
    bad += [BadFile(file.entry.name, file.fault) for file in files if file.fault]
    # An image with a bad mask is still an image: it counts in sizes and modes.
    good = [file for file in files if not file.unreadable]
    normals = [file.entry for file in good if file.entry.split == "train"]
    health = CategoryHealth(
        **base,
        # Test images alone are not enough to generate from.
        error="" if normals else "no readable normal",
        splits={split: sum(f.entry.split == split for f in good) for split in SPLITS},
        test=_counted(file.entry.defect for file in good if file.entry.split == "test"),
        sizes=_counted(f"{file.size_HW[1]}x{file.size_HW[0]}" for file in good),
        modes=_counted(file.mode for file in good),
        masks=sum(len(file.entry.masks) for file in good),
        doubts=tuple(file.doubt for file in good if file.doubt),
        bad=tuple(bad),
        notes=(*listing.notes, *_notes(good, settings)),
    )
    return health, normals[0].path if normals else None


@dataclass(frozen=True, slots=True)
class _File:
    """One entry after its file was read; `fault` is why a run would skip it."""

    entry: SourceEntry
    fault: str = ""
    unreadable: bool = False
    size_HW: tuple[int, int] = (0, 0)
    mode: str = ""
    digest: str = ""
    dark: bool = False
    doubt: MaskDoubt | None = None


def _check(
    entry: SourceEntry, defects_config: Sequence[dict[str, Any]] | None, deep: bool
) -> _File:
    """Read one file and decode its masks; `deep` decodes the file, too."""
    dark = False
    try:
        # The header gives the mode before decoding to RGB; the digest finds copies.
        header = read_header(entry.path)
        # PIL's 16-bit modes all start with I.
        if deep or header.mode.startswith("I"):
            brightest = int(load_image(entry.path).max())
            dark = header.mode.startswith("I") and brightest < DARK
        else:
            check_image(entry.path)
        digest = file_digest(entry.path)
    except ImageError as error:
        return _File(entry, _without_path(error, entry.path), unreadable=True)
    # The image is fine; now its masks.
    fault, doubt = "", None
    if entry.masks:
        try:
            masks_KHW, _ = load_regions(entry, header.size_HW, defects_config)
            doubt = mask_doubt(entry.name, np.asarray(masks_KHW.any(0)))
        except ImageError as error:
            fault = _without_path(error, entry.path)
    return _File(entry, fault, False, header.size_HW, header.mode, digest, dark, doubt)


def _notes(files: Sequence[_File], settings: CategorySettings) -> list[str]:
    """What is allowed but should be known: small and dark images, copies, leaks into the test."""
    notes = []
    size_HW = settings.image_size
    # One side that must be upsampled is enough.
    small = sum(f.size_HW[0] < size_HW[0] or f.size_HW[1] < size_HW[1] for f in files)
    if small:
        notes.append(
            f"{small} images are smaller than image_size {size_HW[1]}x{size_HW[0]} and would be "
            "upsampled; a smaller image_size loses nothing"
        )
    dark = [file.entry.name for file in files if file.dark]
    if dark:
        notes.append(
            f"{len(dark)} 16-bit images use only their lower bits and come out dark ({dark[0]}, "
            "...); scale them to the full range"
        )
    # By content: a copy under another name is the same image.
    training = {f.digest: f.entry.name for f in files if f.entry.split != "test"}
    leaks = [
        f"{file.entry.name} = {training[file.digest]}"
        for file in files
        if file.entry.split == "test" and file.digest in training
    ]
    if leaks:
        notes.append(f"{len(leaks)} test images are copies of training images: {first_few(leaks)}")
    # Each digest once: what is left over are copies.
    doubles = sum(f.entry.split != "test" for f in files) - len(training)
    if doubles:
        notes.append(f"{doubles} normals are copies of other normals")
    return notes


def _gigabytes(settings: CategorySettings, health: CategoryHealth) -> float:
    """Upper bound for the size of one version: all samples and their masks, uncompressed."""
    # Every normal is stored itself, and once per sample.
    normals = health.splits.get("train", 0) + health.splits.get("validation", 0)
    samples = normals * (1 + settings.edits.per_image + settings.edits.controls_per_image)
    pixels = settings.image_size[0] * settings.image_size[1]
    # Four bytes per pixel: RGB and a mask.
    return (samples + health.splits.get("test", 0)) * pixels * 4 / 1e9


def _writable(store: Path) -> bool:
    folder = _nearest_folder(store)
    # Creating a file needs both rights on its folder.
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest parent that exists: a store is created by the first run."""
    return next(place for place in (path, *path.parents) if place.exists())


def _counted(values: Any) -> dict[str, int]:
    """Counts, the most common first, ties by name."""
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _without_path(error: ImageError, path: Path) -> str:
    return str(error).removeprefix(f"{text_of(path)}: ")
