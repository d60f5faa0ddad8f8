"""The one registry of model files: their names, where they may lie, whether they are whole.

Resolution order: explicit path of the manifest, `ANOMALYSMITH_WEIGHTS` folder, per-user cache,
bundled. Nothing here downloads by itself; `pull` does, and only when a person asks for it.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import platformdirs

from pipeline.errors import WeightsError

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
CHUNK = 1 << 20

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all; 0 when unknown)."""


@dataclass(frozen=True, slots=True)
class WeightsEntry:
    """One model file. `digest` is `sha256:…` or `md5:…` as its publisher states it, or empty."""

    name: str
    stage: str
    file: str
    megabytes: float
    licence: str
    digest: str = ""
    url: str = ""
    commercial: bool = True

    @property
    def bundled(self) -> bool:
        """True when the file is one of ours and lies in the project's `weights/`."""
        return not self.url


_REMBG = "https://github.com/danielgatis/rembg/releases/download/v0.0.0/"
_SAM = "https://dl.fbaipublicfiles.com/segment_anything/"
_LAMA = "https://github.com/Sanster/models/releases/download/add_big_lama/"

# Digests of the bundled files stand in weights/SHA256SUMS beside them; weights/*.md are the cards.
ENTRIES = (
    WeightsEntry("bundled-u2netp", "foreground", "u2netp.onnx", 4.6, "Apache-2.0"),
    WeightsEntry("bundled-sam", "proposals", "small_sam.safetensors", 9.0, "Apache-2.0"),
    WeightsEntry("bundled-lama", "inpaint", "small_lama.pt", 9.0, "Apache-2.0"),
    WeightsEntry(
        "u2net", "foreground", "u2net.onnx", 176.0, "Apache-2.0",
        "md5:60024c5c889badc19c04ad937298a77b", _REMBG + "u2net.onnx",
    ),
    WeightsEntry(
        "u2netp", "foreground", "u2netp.onnx", 4.6, "Apache-2.0",
        "md5:8e83ca70e441ab06c318d82300c84806", _REMBG + "u2netp.onnx",
    ),
    WeightsEntry(
        "sam-vit-b", "proposals", "sam_vit_b_01ec64.pth", 375.0, "Apache-2.0",
        "md5:01ec64d29a2fca3f0661936605ae66f8", _SAM + "sam_vit_b_01ec64.pth",
    ),
    WeightsEntry(
        "sam-vit-l", "proposals", "sam_vit_l_0b3195.pth", 1250.0, "Apache-2.0",
        "md5:0b3195507c641ddb6910d2bb5adee89c", _SAM + "sam_vit_l_0b3195.pth",
    ),
    WeightsEntry(
        "sam-vit-h", "proposals", "sam_vit_h_4b8939.pth", 2564.0, "Apache-2.0",
        "md5:4b8939a88964f0f4ff5f5b2642c598a6", _SAM + "sam_vit_h_4b8939.pth",
    ),
    WeightsEntry(
        "big-lama", "inpaint", "big-lama.pt", 206.0, "Apache-2.0",
        "md5:e3aa4aaa15225a33ec84f9f4bc47e500", _LAMA + "big-lama.pt",
    ),
)  # fmt: skip


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
    """Where the file of that entry lies, or None. Looks, never downloads, checks no bytes."""
    return next((path for path in _places(entry(name)) if path.is_file()), None)


def require(name: str, explicit: Path | None = None, allow_noncommercial: bool = True) -> Path:
    """The path of that entry's file, `explicit` first; WeightsError when absent or forbidden."""
    wanted = entry(name)
    if not (wanted.commercial or allow_noncommercial):
        raise WeightsError(
            f"weights {name!r} are under {wanted.licence}, and the manifest forbids non-commercial "
            "licences; choose another backend or set licence.allow_noncommercial: true"
        )
    if explicit is not None:
        if not explicit.is_file():
            raise WeightsError(f"weights for {name!r}: no file at {explicit}; mend the path")
        return explicit
    found = find(name)
    if found is None:
        where = ", ".join(map(str, _places(wanted)))
        how = f"run `anomalysmith weights pull {name}`" if wanted.url else "restore weights/"
        raise WeightsError(
            f"weights {name!r} ({wanted.megabytes:g} MB, {wanted.licence}) are missing; "
            f"looked at {where}; {how}, or name a path in the manifest"
        )
    return found


def _places(wanted: WeightsEntry) -> list[Path]:
    folder = (BUNDLED,) if wanted.bundled else folders()
    return [place / wanted.file for place in folder]


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, modified: int) -> str:
    return _digest(path, "sha256")


def sha256(path: Path) -> str:
    """SHA-256 of a weights file, remembered per size and time of change within the process."""
    state = path.stat()
    return _sha256(path, state.st_size, state.st_mtime_ns)


def check(name: str, path: Path) -> None:
    """Raise WeightsError unless the file has the digest its publisher states (if any)."""
    wanted = entry(name)
    expected = bundled_digest(wanted) if wanted.bundled else wanted.digest
    if not expected:
        return
    kind, _, value = expected.partition(":")
    found = _digest(path, kind)
    if found != value:
        raise WeightsError(
            f"weights {name!r} at {path}: expected {kind} {value[:12]}…, found {found[:12]}…; "
            "the file may be cut short: delete it and fetch it again"
        )


def bundled_digest(wanted: WeightsEntry) -> str:
    """`sha256:…` of a bundled file from `weights/SHA256SUMS`, empty when not listed."""
    sums = BUNDLED / "SHA256SUMS"
    if sums.is_file():
        for line in sums.read_text().splitlines():
            digest, _, file = line.partition("  ")
            if file == wanted.file:
                return f"sha256:{digest}"
    return ""


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch one file into the first folder: resumed, checked, then renamed into place."""
    wanted = entry(name)
    if wanted.bundled:
        return require(name)
    target = folders()[0] / wanted.file
    if target.is_file():
        check(name, target)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        _fetch(wanted.url, part, progress)
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"cannot fetch {wanted.url}: {error}; with no network copy the file to {target}"
        ) from error
    try:
        check(name, part)
    except WeightsError:
        part.unlink()
        raise
    part.replace(target)
    return target


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    if done and not _wants_more(url, done):
        done = 0
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with urlopen(request, timeout=60) as answer:
        if done and answer.status != 206:  # the server starts again from the first byte
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if done else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total and done < total:
        raise OSError(
            f"the connection ended after {done} of {total} bytes; the same command goes on"
        )


def _wants_more(url: str, done: int) -> bool:
    """False when the server's file is not longer than what lies here: fetch it anew."""
    with urlopen(Request(url, method="HEAD"), timeout=60) as answer:
        return int(answer.headers.get("Content-Length") or 0) > done


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()
