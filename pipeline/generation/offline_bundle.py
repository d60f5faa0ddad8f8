"""Everything that a manifest needs, in one folder for a machine without a network.

    plan = plan_bundle(settings, extra=["resnet18"])     # which files; names what is missing
    write_bundle(plan, folder)                           # copies, checks, explains

On the other machine `ANOMALYSMITH_WEIGHTS=FOLDER` is all that is said. Bundled models are not
copied: they travel with the program. Each file is copied aside, compared with the SHA-256 of its
source and renamed; a whole file that is there already is kept; SHA256SUMS and README.md come last.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.schema import CategorySettings
from pipeline.errors import IntegrityError, UserError, WeightsError
from pipeline.models import build as models
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import WeightsEntry
from pipeline.utils.files import write_whole

CHUNK = 1 << 20
SUMS, README, OWN = "SHA256SUMS", "README.md", "own"

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@dataclass(frozen=True, slots=True)
class BundleFile:
    """One file to copy: from where, under which name, and of which entry (None: a user's own)."""

    source: Path
    place: str
    size: int
    sha256: str
    entry: WeightsEntry | None


@dataclass(frozen=True, slots=True)
class BundlePlan:
    """`builtin` are bundled entries that are used and not copied. `own` says which stage of which
    category reads a file that the manifest names by its path."""

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
    """What those categories read here and now, plus the entries named in `extra`.

    Raises WeightsError with the command to run when a file is missing or not what it should be.
    """
    found: dict[str, BundleFile] = {}
    builtin: dict[str, None] = {}
    own: dict[tuple[str, str, str], None] = {}

    def take(entry: WeightsEntry, path: Path) -> None:
        if entry.bundled:
            builtin[entry.name] = None
        else:
            found.update({file.place: file for file in _files(entry.file, path, entry)})

    for category in settings:
        files = models.resolve(category.models, category.policy.allow_noncommercial)
        for field in dataclasses.fields(files):
            _, path = getattr(files, field.name)
            if path is None:  # OpenCV reads no file
                continue
            entry = _entry_at(path)
            if entry is not None:
                take(entry, path)
                continue
            # Two files of the user's own may share a name; eight digits of the digest part them.
            place = f"{OWN}/{weights.sha256(path)[:8]}-{path.name}"
            found.update({file.place: file for file in _files(place, path, None)})
            own[(category.name, field.name, place)] = None
    for name in extra:
        take(weights.entry(name), weights.require(name))
    return BundlePlan(tuple(found.values()), tuple(builtin), tuple(own))


def write_bundle(plan: BundlePlan, folder: Path, progress: Progress | None = None) -> list[str]:
    """Copy what is not there yet; returns the copied places. The same call goes on after a stop."""
    _refuse_source_folders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    copied, done = [], 0
    for file in plan.files:
        target = folder / file.place
        if not _same(target, file):
            _copy(file, target, done, plan.size, progress)
            copied.append(file.place)
        done += file.size
        if progress:
            progress(done, plan.size)
    sums = _earlier_sums(folder) | {file.place: file.sha256 for file in plan.files}
    lines = [f"{digest}  {place}\n" for place, digest in sorted(sums.items())]
    write_whole(folder / SUMS, "".join(lines).encode())
    # The pins travel along, so that the other machine asks for these very bytes from the start.
    pins = {entry.file: weights.sha256(folder / entry.file) for entry in plan.entries}
    weights_pins.add(folder, pins)
    write_whole(folder / README, _readme(plan, sums).encode())
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
    """The entry that is found at this path; None for a path that only the manifest names."""
    return next((e for e in weights.entries() if weights.find(e.name) == path), None)


def _refuse_source_folders(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder for the bundle")
    for place in (*weights.folders(), weights.BUNDLED):
        if folder.resolve() == place.resolve():
            raise UserError(f"{folder} is where weights are read from; name another folder")


def _same(target: Path, file: BundleFile) -> bool:
    return (
        target.is_file()
        and target.stat().st_size == file.size
        and weights.sha256(target) == file.sha256
    )


def _copy(
    file: BundleFile, target: Path, before: int, total: int, progress: Progress | None
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    hasher, done = hashlib.sha256(), before
    with file.source.open("rb") as source, part.open("wb") as copy:
        while chunk := source.read(CHUNK):
            hasher.update(chunk)
            copy.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
        copy.flush()
        os.fsync(copy.fileno())
    if hasher.hexdigest() != file.sha256:
        part.unlink()
        raise IntegrityError(f"{file.source} changed while it was copied; run the command again")
    part.replace(target)


def _earlier_sums(folder: Path) -> dict[str, str]:
    """What an earlier bundle in the same folder holds; several manifests may share one."""
    path = folder / SUMS
    if not path.is_file():
        return {}
    try:
        pairs = [line.split("  ", 1) for line in path.read_text(encoding="utf-8").splitlines()]
        return {place: digest for digest, place in pairs if (folder / place).is_file()}
    except ValueError as error:
        raise WeightsError(
            f"{path} is not a list of digests; delete it or name another folder"
        ) from error


def _readme(plan: BundlePlan, sums: Mapping[str, str]) -> str:
    tops = {place.partition("/")[0] for place in sums}
    held = [entry for entry in weights.entries() if entry.file in tops and not entry.bundled]
    lines = [
        "# Model files for anomalysmith",
        "",
        "Made by `anomalysmith weights bundle`. On the machine without a network:",
        "",
        "    cd THIS_FOLDER && sha256sum -c SHA256SUMS",
        '    export ANOMALYSMITH_WEIGHTS="THIS_FOLDER"',
        "    anomalysmith weights list",
        "",
        "Nothing else is needed: the small bundled models come with the program.",
    ]
    if plan.builtin:
        lines += ["", f"Used from the program itself: {', '.join(plan.builtin)}."]
    if plan.own:
        lines += ["", "Files of your own. In the manifest there, name them by their new path:", ""]
        lines += [
            f"- category `{category}`: `models.{stage}.weights: THIS_FOLDER/{place}`"
            for category, stage, place in plan.own
        ]
    if held:
        lines += ["", "| file | licence | commercial use | from |", "|---|---|---|---|"]
        lines += [
            f"| {entry.file} | {entry.licence} | {'yes' if entry.commercial else 'no'}"
            f"{', see below' if entry.terms else ''} | {entry.url or 'your own copy'} |"
            for entry in held
        ]
        lines += ["", "Passing these files on is subject to their licences."]
        lines += [f"\n{entry.file}: {entry.terms}." for entry in held if entry.terms]
    return "\n".join(lines) + "\n"
