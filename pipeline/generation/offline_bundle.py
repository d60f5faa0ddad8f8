"""Copy all model files that a manifest needs into one folder, for a machine without a network.

    plan = plan_bundle(settings, extra=["resnet18"])     # which files; names what is missing
    write_bundle(plan, folder)                           # copies, checks, documents

The other machine only needs `ANOMALYSMITH_WEIGHTS=FOLDER`. Bundled models are not copied: they
ship with the program. Each file is copied to a temporary file, compared with the SHA-256 of its
source and renamed; files that are already complete are kept; SHA256SUMS and README.md come last.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.dataset.files import SUMS
from pipeline.errors import IntegrityError, UserError, WeightsError
from pipeline.models import build as models
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import WeightsEntry
from pipeline.utils.files import write_atomic

# Bytes that are read at once.
CHUNK = 1 << 20
# Names in the bundle; OWN is the folder of files that only the manifest names.
README, OWN = "README.md", "own"

# Called with (bytes done, bytes in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file to copy; `place` is its path in the bundle, `entry` None for a user's own file."""

    source: Path
    place: str
    size: int
    sha256: str
    entry: WeightsEntry | None


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """The files of a bundle.

    `builtin` are bundled entries that are used but not copied. `own` are category, stage and place
    of files that the manifest names by path.
    """

    files: tuple[BundleFile, ...]
    builtin: tuple[str, ...]
    own: tuple[tuple[str, str, str], ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def entries(self) -> tuple[WeightsEntry, ...]:
        """The entries that are copied, each once."""
        return tuple({file.entry.name: file.entry for file in self.files if file.entry}.values())


def plan_bundle(settings: Sequence[CategorySettings], extra: Sequence[str] = ()) -> BundlePlan:
    """The model files that these categories use here, plus the entries named in `extra`.

    Raises WeightsError with the command to run when a file is missing or has a wrong digest.
    """
    # Dictionaries as ordered sets: categories mostly share their files.
    found: dict[str, BundleFile] = {}
    builtin: dict[str, None] = {}
    own: dict[tuple[str, str, str], None] = {}

    def take(entry: WeightsEntry, path: Path) -> None:
        if entry.bundled:
            builtin[entry.name] = None
        else:
            found.update({file.place: file for file in _files(entry.file, path, entry)})

    for category in settings:
        # What a run of this category would load.
        files = models.resolve(category.models, category.policy.allow_noncommercial)
        # Stage by stage: foreground, proposals, inpainting, fill.
        for field in dataclasses.fields(files):
            _, path = getattr(files, field.name)
            # The inpainters of OpenCV have no file.
            if path is None:
                continue
            entry = _entry_at(path)
            if entry is not None:
                take(entry, path)
                continue
            # Two files of the user may have the same name; digits of the digest tell them apart.
            place = f"{OWN}/{weights.sha256(path)[:8]}-{path.name}"
            found.update({file.place: file for file in _files(place, path, None)})
            own[(category.name, field.name, place)] = None
    for name in extra:
        take(weights.entry(name), weights.require(name))
    return BundlePlan(tuple(found.values()), tuple(builtin), tuple(own))


def write_bundle(plan: BundlePlan, folder: Path, progress: Progress | None = None) -> list[str]:
    """Copy what is missing in a folder; returns the copied places.

    After an interruption the same call continues. Raises UserError for a folder that weights are
    read from, IntegrityError when a source file changes during the copy.
    """
    _reject_source_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    copied, done = [], 0
    for file in plan.files:
        # A file with the right content is kept, whoever put it there.
        target = folder / file.place
        if not _same(target, file):
            _copy(file, target, done, plan.size, progress)
            copied.append(file.place)
        done += file.size
        if progress:
            progress(done, plan.size)
    # Earlier bundles in this folder stay documented.
    sums = _earlier_checksums(folder) | {file.place: file.sha256 for file in plan.files}
    lines = [f"{digest}  {place}\n" for place, digest in sorted(sums.items())]
    write_atomic(folder / SUMS, "".join(lines).encode())
    # The pins go along, so that the other machine expects exactly these bytes from the start.
    pins = {entry.file: weights.sha256(folder / entry.file) for entry in plan.entries}
    weights_pins.add(folder, pins)
    write_atomic(folder / README, _readme(plan, sums).encode())
    return copied


def _files(place: str, path: Path, entry: WeightsEntry | None) -> list[BundleFile]:
    """One file, or each file of a model folder that may be read."""
    if path.is_dir():
        inside = weights.folder_files(path)
        return [
            file
            for below in inside
            for file in _files(f"{place}/{below.relative_to(path).as_posix()}", below, entry)
        ]
    return [BundleFile(path, place, path.stat().st_size, weights.sha256(path), entry)]


def _entry_at(path: Path) -> WeightsEntry | None:
    """The registry entry found at this path; None for a path that only the manifest names."""
    return next((e for e in weights.entries() if weights.find(e.name) == path), None)


def _reject_source_folders(folder: Path) -> None:
    """Copying a file onto itself would destroy it."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the bundle")
    for place in (*weights.folders(), weights.BUNDLED):
        if folder.resolve() == place.resolve():
            raise UserError(f"{folder} is where weights are read from; name another folder")


def _same(target: Path, file: BundleFile) -> bool:
    """True when the bundle already has this file, byte by byte."""
    return (
        target.is_file()
        and target.stat().st_size == file.size
        and weights.sha256(target) == file.sha256
    )


def _copy(
    file: BundleFile, target: Path, before: int, total: int, progress: Progress | None
) -> None:
    """Copy one file; `before` and `total` are bytes of the whole bundle."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Under its own name only when complete, so that an interrupted copy is not taken for a model.
    part = target.with_name(target.name + ".part")
    # The digest is of the bytes that were written, not of a second reading.
    hasher, done = hashlib.sha256(), before
    with file.source.open("rb") as source, part.open("wb") as copy:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            copy.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
        # On removable drives, data may reach the disk much later.
        copy.flush()
        os.fsync(copy.fileno())
    if hasher.hexdigest() != file.sha256:
        # Nothing is left that a later call could take for the file.
        part.unlink()
        raise IntegrityError(f"{file.source} changed while it was copied; run the command again")
    part.replace(target)


def _earlier_checksums(folder: Path) -> dict[str, str]:
    """Checksums of an earlier bundle in the same folder: several manifests may share one."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    try:
        # The format of sha256sum: digest, two spaces, name.
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        return {place: digest for digest, place in pairs if (folder / place).is_file()}
    except ValueError as error:
        raise WeightsError(
            f"{path} is not a list of checksums; delete it or name another folder"
        ) from error


def _readme(plan: BundlePlan, sums: Mapping[str, str]) -> str:
    """How to use the bundle, and the licences of its files."""
    # A model folder is one entry with many files.
    tops = {place.partition("/")[0] for place in sums}
    # Licences of everything in the folder, also of earlier bundles.
    held = [entry for entry in weights.entries() if entry.file in tops and not entry.bundled]
    lines = [
        "# Model files for anomalysmith",
        "",
        "Made by `anomalysmith weights bundle`. On the machine without a network:",
        "",
        "    cd THIS_FOLDER && sha256sum -c {SUMS}",
        '    export ANOMALYSMITH_WEIGHTS="THIS_FOLDER"',
        "    anomalysmith weights list",
        "",
        "Nothing else is needed: the small bundled models come with the program.",
    ]
    if plan.builtin:
        lines += ["", f"Used from the program itself: {', '.join(plan.builtin)}."]
    if plan.own:
        lines += ["", "Your own files. In the manifest there, name them by their new path:", ""]
        lines += [
            f"- category `{category}`: `models.{stage}.weights: THIS_FOLDER/{place}`"
            for category, stage, place in plan.own
        ]
    if held:
        lines += ["", "| file | licence | commercial use | from |", "|---|---|---|---|"]
        lines += [
            f"| {entry.file} | {entry.licence} | {'yes' if entry.commercial else 'no'}"
            f"{', see below' if entry.terms else ''} | {entry.origin or 'your own copy'} |"
            for entry in held
        ]
        lines += ["", "Passing these files on is subject to their licences."]
        lines += [f"\n{entry.file}: {entry.terms}." for entry in held if entry.terms]
    return "\n".join(lines) + "\n"
