"""The weights registry: find a model file, check that it is the right one, pin it.

Search order: explicit path of the manifest, `ANOMALYSMITH_WEIGHTS` folder, per-user cache. Bundled
files are in the repository's own weights folder. Nothing here downloads; `weights/download.py`
does, and only on the user's command. The known files are listed in `weights/catalog.py`.

A file from outside is compared with its publisher's digest before anything reads it, then pinned by
SHA-256 (`weights/pins.py`). A file that the manifest names by its path is not checked.
"""

import hashlib
import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Literal

import platformdirs

from pipeline.errors import WeightsError
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights.catalog import ENTRIES, WeightsEntry
from pipeline.utils.file_hash import hash_file

# The folder `weights/` of the repository.
BUNDLED = Path(__file__).resolve().parents[3] / "weights"

State = Literal["bundled", "present", "missing"]

# Suffixes that are read from a diffusers folder: weights without code, settings and tokenizers.
_SAFE_IN_FOLDER = (".safetensors", ".json", ".txt", ".md", ".model")


def entries() -> tuple[WeightsEntry, ...]:
    """Every known model file, bundled ones first."""
    return ENTRIES


def entry(name: str) -> WeightsEntry:
    """The entry of that name; WeightsError names the known ones otherwise."""
    for candidate in ENTRIES:
        if candidate.name == name:
            return candidate
    known = ", ".join(known.name for known in ENTRIES)
    raise WeightsError(f"no weights are called {name!r}; known: {known}")


def folders() -> tuple[Path, ...]:
    """Folders that are searched for downloaded files, in order."""
    chosen = os.environ.get("ANOMALYSMITH_WEIGHTS")
    found = [Path(chosen)] if chosen else []
    # A container that runs as any user has neither HOME nor an entry for it: nothing to search.
    with suppress(RuntimeError):
        found.append(Path(platformdirs.user_cache_dir("anomalysmith")) / "weights")
    return tuple(found)


def download_folder() -> Path:
    """Where downloads go; WeightsError when the user has no home folder and named none."""
    for folder in folders():
        return folder
    raise WeightsError("no folder for weights: set ANOMALYSMITH_WEIGHTS or HOME to one")


def find(name: str) -> Path | None:
    """The path of that entry's file or folder, or None. Does not read it."""
    wanted = entry(name)
    exists = _is_model_folder if wanted.format == "folder" else Path.is_file
    return next((path for path in _places(wanted) if exists(path)), None)


def state(name: str) -> State:
    """`bundled`, `present` (downloaded or copied there) or `missing`."""
    if find(name) is None:
        return "missing"
    return "bundled" if entry(name).bundled else "present"


def require(
    name: str,
    explicit: Path | None = None,
    allow_noncommercial: bool = True,
    otherwise: str = "name a path in the manifest",
) -> Path:
    """The path of that entry's file, `explicit` first; WeightsError when absent or forbidden.

    `otherwise` is what the user can do instead of fetching it.

    A file that is found is checked first, and pinned when it is from outside. Each file is hashed
    once per process; the lineage of a dataset needs its SHA-256 anyway.
    """
    wanted = entry(name)
    # The licence policy applies to a file at an explicit path as well.
    if not (wanted.commercial or allow_noncommercial):
        raise WeightsError(
            f"weights {name!r} are under {wanted.licence}, and the manifest forbids non-commercial "
            "licences; choose another backend or set licence.allow_noncommercial: true"
        )
    # An explicit path wins over every folder, also when its file is missing.
    if explicit is not None:
        if not (explicit.is_dir() if wanted.format == "folder" else explicit.is_file()):
            what = "folder" if wanted.format == "folder" else "file"
            raise WeightsError(f"weights for {name!r}: no {what} at {explicit}; correct the path")
        # The user's own file has no published digest, and its folder is not ours to pin in.
        return explicit
    found = find(name)
    if found is None:
        where = ", ".join(map(str, _places(wanted)))
        raise WeightsError(
            f"weights {name!r} ({wanted.megabytes:g} MB, {wanted.licence}) are missing; "
            f"looked at {where}; {wanted.get}, or {otherwise}"
        )
    check_and_pin(name, found)
    return found


def check_and_pin(name: str, path: Path) -> bool:
    """Check the file and pin it on first use; False when it cannot be pinned."""
    check(name, path)
    return entry(name).bundled or weights_pins.add(path.parent, {path.name: sha256(path)})


def check(name: str, path: Path, pinned_in: Path | None = None) -> None:
    """Raise WeightsError unless the file matches its published digest and its pin, if any.

    The pin is read from the file's folder, or from `pinned_in` while the file is still elsewhere.
    """
    wanted = entry(name)
    # Bundled files are checked against SHA256SUMS, which git protects; they need no pin.
    pin = "" if wanted.bundled else weights_pins.read(pinned_in or path.parent).get(wanted.file, "")
    stated = bundled_digest(wanted) if wanted.bundled else wanted.file_digest
    # MD5 is not collision-resistant: it is only checked until there is a SHA-256 pin.
    if stated and not (pin and stated.startswith("md5:")):
        check_digest(name, path, stated)
    if pin and sha256(path) != pin:
        raise WeightsError(
            f"weights {name!r} at {path}: expected SHA-256 {pin[:12]}… as on first use, found "
            f"{sha256(path)[:12]}…; delete the file and fetch it again; if the new one is right, "
            f"delete its line in {(pinned_in or path.parent) / weights_pins.FILE} as well"
        )


def check_digest(name: str, path: Path, stated: str) -> None:
    """Raise WeightsError unless the file has the digest `kind:value`.

    `sha256:`, `md5:`, or `sha256-prefix:` for the first characters of a SHA-256.
    """
    kind, _, value = stated.partition(":")
    found = digest(path, kind.removesuffix("-prefix"))
    # A published prefix is compared as far as it goes; a full digest must be equal.
    if not found.startswith(value) or (not kind.endswith("-prefix") and found != value):
        raise WeightsError(
            f"weights {name!r} at {path}: expected {kind} {value[:12]}…, found {found[:12]}…; "
            "the file may be cut short: delete it and fetch it again"
        )


def bundled_digest(wanted: WeightsEntry) -> str:
    """`sha256:…` of a bundled file from `weights/SHA256SUMS`, empty when it is not listed."""
    sums = BUNDLED / "SHA256SUMS"
    if sums.is_file():
        for line in sums.read_text().splitlines():
            value, _, file = line.partition("  ")
            if file == wanted.file:
                return f"sha256:{value}"
    return ""


def sha256(path: Path) -> str:
    """Hex SHA-256 of a weights file; of a model folder, over the names and digests of its files."""
    return digest(path, "sha256")


def digest(path: Path, kind: str) -> str:
    """Hex digest, cached in the process by path, size and modification time."""
    if path.is_dir():
        # The format of `sha256sum`, one line per file in the order of their names.
        lines = [
            f"{digest(file, kind)}  {file.relative_to(path).as_posix()}\n"
            for file in folder_files(path)
        ]
        return hashlib.new(kind, "".join(lines).encode(), usedforsecurity=False).hexdigest()
    status = path.stat()
    return _digest(path, kind, status.st_size, status.st_mtime_ns)


def folder_files(folder: Path) -> list[Path]:
    """The files of a diffusers folder that may be read, sorted: safetensors and plain text.

    Pickled copies of the weights (`.bin`, `.ckpt`), code and hidden files are left out: they are
    not hashed, not copied, and never loaded.
    """
    return sorted(
        path
        for path in folder.rglob("*")
        if (path.suffix in _SAFE_IN_FOLDER or path.name.upper().startswith("LICENSE"))
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _places(wanted: WeightsEntry) -> list[Path]:
    folder = (BUNDLED,) if wanted.bundled else folders()
    return [place / wanted.file for place in folder]


def _is_model_folder(path: Path) -> bool:
    """True for a diffusers folder; an empty or half-copied one does not count."""
    return (path / "model_index.json").is_file()


# Large checkpoints take seconds to hash, and one run needs the digest of a file several times.
@lru_cache(maxsize=256)
def _digest(path: Path, kind: str, size: int, modified: int) -> str:
    """`size` and `modified` (ns) are part of the cache key only: a changed file is read again."""
    return hash_file(path, kind)
