"""The one registry of model files: where they may lie, whether they are whole.

Resolution order: explicit path of the manifest, `ANOMALYSMITH_WEIGHTS` folder, per-user cache,
bundled. Nothing here downloads; `weights_pull` does, and only when a person asks for it. What there
is, stands in `weights_catalogue`.

A file from outside is compared with its publisher's digest before anything reads it, then pinned by
SHA-256 (`weights_pins`). A file that the manifest names by its path is its owner's business.
"""

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Literal

import platformdirs

from pipeline.errors import WeightsError
from pipeline.models.weights import pins as weights_pins
from pipeline.models.weights.catalog import ENTRIES, WeightsEntry

BUNDLED = Path(__file__).resolve().parents[3] / "weights"

State = Literal["bundled", "present", "missing"]

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
    """Where downloaded files are looked for, in order."""
    chosen = os.environ.get("ANOMALYSMITH_WEIGHTS")
    user = Path(platformdirs.user_cache_dir("anomalysmith")) / "weights"
    return (Path(chosen), user) if chosen else (user,)


def find(name: str) -> Path | None:
    """Where the file (or folder) of that entry lies, or None. Looks only; checks no bytes."""
    wanted = entry(name)
    here = _is_model_folder if wanted.format == "folder" else Path.is_file
    return next((path for path in _places(wanted) if here(path)), None)


def state(name: str) -> State:
    """`bundled`, `present` (downloaded or put there) or `missing`."""
    if find(name) is None:
        return "missing"
    return "bundled" if entry(name).bundled else "present"


def require(name: str, explicit: Path | None = None, allow_noncommercial: bool = True) -> Path:
    """The path of that entry's file, `explicit` first; WeightsError when absent or forbidden.

    A file that is found is checked first, and pinned when it is from outside; the hashing is done
    once per process, and a run needs the SHA-256 for its lineage anyway.
    """
    wanted = entry(name)
    if not (wanted.commercial or allow_noncommercial):
        raise WeightsError(
            f"weights {name!r} are under {wanted.licence}, and the manifest forbids non-commercial "
            "licences; choose another backend or set licence.allow_noncommercial: true"
        )
    if explicit is not None:
        if not (explicit.is_dir() if wanted.format == "folder" else explicit.is_file()):
            what = "folder" if wanted.format == "folder" else "file"
            raise WeightsError(f"weights for {name!r}: no {what} at {explicit}; mend the path")
        return explicit
    found = find(name)
    if found is None:
        where = ", ".join(map(str, _places(wanted)))
        raise WeightsError(
            f"weights {name!r} ({wanted.megabytes:g} MB, {wanted.licence}) are missing; "
            f"looked at {where}; {wanted.get}, or name a path in the manifest"
        )
    settle(name, found)
    return found


def settle(name: str, path: Path) -> bool:
    """Check the file and pin it when this is its first use; False when it cannot be pinned."""
    check(name, path)
    return entry(name).bundled or weights_pins.add(path.parent, {path.name: sha256(path)})


def check(name: str, path: Path, pinned_in: Path | None = None) -> None:
    """Raise WeightsError unless the file is what its publisher, or its pin, says (if any).

    A pin is looked for beside the file, or in `pinned_in` while the file lies elsewhere. MD5 is the
    weaker word: it is asked only until there is a pin.
    """
    wanted = entry(name)
    pin = "" if wanted.bundled else weights_pins.read(pinned_in or path.parent).get(wanted.file, "")
    stated = bundled_digest(wanted) if wanted.bundled else wanted.file_digest
    if stated and not (pin and stated.startswith("md5:")):
        compare(name, path, stated)
    if pin and sha256(path) != pin:
        raise WeightsError(
            f"weights {name!r} at {path}: expected SHA-256 {pin[:12]}… as on first use, found "
            f"{sha256(path)[:12]}…; delete the file and fetch it again; if the new one is right, "
            f"delete its line in {(pinned_in or path.parent) / weights_pins.FILE} as well"
        )


def compare(name: str, path: Path, stated: str) -> None:
    """Raise WeightsError unless the file has the digest `kind:value`; a prefix is compared so."""
    kind, _, value = stated.partition(":")
    found = digest(path, kind.removesuffix("-prefix"))
    if not found.startswith(value) or (not kind.endswith("-prefix") and found != value):
        raise WeightsError(
            f"weights {name!r} at {path}: expected {kind} {value[:12]}…, found {found[:12]}…; "
            "the file may be cut short: delete it and fetch it again"
        )


def bundled_digest(wanted: WeightsEntry) -> str:
    """`sha256:…` of a bundled file from `weights/SHA256SUMS`, empty when not listed."""
    sums = BUNDLED / "SHA256SUMS"
    if sums.is_file():
        for line in sums.read_text().splitlines():
            value, _, file = line.partition("  ")
            if file == wanted.file:
                return f"sha256:{value}"
    return ""


def sha256(path: Path) -> str:
    """SHA-256 of a weights file; of a model folder, over the names and digests of its files."""
    return digest(path, "sha256")


def digest(path: Path, kind: str) -> str:
    """Hex digest, remembered per path, size and time of change within the process."""
    if path.is_dir():
        lines = [
            f"{digest(file, kind)}  {file.relative_to(path).as_posix()}\n"
            for file in folder_files(path)
        ]
        return hashlib.new(kind, "".join(lines).encode(), usedforsecurity=False).hexdigest()
    status = path.stat()
    return _digest(path, kind, status.st_size, status.st_mtime_ns)


def folder_files(folder: Path) -> list[Path]:
    """The files of a diffusers folder that may be read, by name: safetensors and plain text.

    Pickled twins (`.bin`, `.ckpt`), code and hidden files are no part of it: not digested, not
    copied, and never loaded.
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
    return (path / "model_index.json").is_file()


@lru_cache(maxsize=256)
def _digest(path: Path, kind: str, size: int, modified: int) -> str:
    with path.open("rb") as file:
        hasher = hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False))
    return hasher.hexdigest()
