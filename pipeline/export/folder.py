"""The folder of an export: it appears complete or not at all, with the same bytes every time.

Files go into a hidden folder, which becomes the target at the end: beside it, or inside where the
target is there already and empty. That one is kept, since it may be the folder somebody is in, or a
mounted disk; the files move up, `SHA256SUMS` last. What a killed run left is deleted, or moved up,
by the next. `export.json` says what an export contains. A second export of the same version into
the same folder is checked against `SHA256SUMS` and left as it is.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.dataset.files import SUMS
from pipeline.errors import UserError
from pipeline.utils.file_hash import sha256_file
from pipeline.utils.files import sync, try_lock
from pipeline.utils.hashing import canonical_json

# Version and options; written last.
IDENTITY = "export.json"
# The hidden folder inside a target that was there before.
_INSIDE = ".exporting"
# One line per image: its files and its record.
LINEAGE = "lineage.jsonl"
# Lossless like every PNG. These take a quarter of the time of zlib's level 6, and photographs get
# no larger.
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)


class ExportFolder:
    """The folder a format writes to. Paths are relative with `/`; each file is written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.on_image: Callable[[int], None] | None = None
        self._lineage: list[bytes] = []

    def png(self, path: str, image: np.ndarray) -> str:
        """Write (H, W, 3) uint8 RGB, or an (H, W) bool mask as 0 and 255; return the path."""
        return self.write(path, png_bytes(image))

    def json(self, path: str, content: Any) -> str:
        """Write indented JSON with sorted keys."""
        return self.write(path, pretty(content))

    def text(self, path: str, text: str) -> str:
        return self.write(path, text.encode())

    def write(self, path: str, content: bytes) -> str:
        """Write one file and keep its digest."""
        target = self.place(path)
        with target.open("wb") as file:
            file.write(content)
        self.digests[path] = hashlib.sha256(content).hexdigest()
        return path

    def place(self, path: str) -> Path:
        """The path for a file that the caller writes itself and then reports with `wrote`."""
        target = self.folder / path
        if path in self.digests:
            raise AssertionError(f"{path} is written twice")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def wrote(self, path: str) -> None:
        """Add the checksum of a file that the caller has written."""
        self.digests[path] = sha256_file(self.folder / path)

    def lineage(self, row: Mapping[str, Any]) -> None:
        """Add one image's line of `lineage.jsonl`: its files and its record."""
        self._lineage.append(canonical_json(row) + b"\n")
        if self.on_image:
            self.on_image(self.images)

    @property
    def images(self) -> int:
        """The number of images written so far."""
        return len(self._lineage)

    def finish(self, identity: Mapping[str, Any]) -> None:
        """Write lineage, identity and checksums."""
        self.write(LINEAGE, b"".join(self._lineage))
        self.json(IDENTITY, identity)
        lines = (f"{self.digests[name]}  {name}\n" for name in sorted(self.digests))
        self.text(SUMS, "".join(lines))
        sync(self.folder)


@contextmanager
def export_folder(out: Path) -> Iterator[ExportFolder]:
    """A hidden folder that becomes `out` if the block succeeds and is deleted otherwise."""
    # Not `resolve`: a link in the path stays, so the rename happens where the user named it.
    out = Path(os.path.abspath(out))
    inside = out.is_dir()
    aside = out / _INSIDE if inside else out.with_name(f".{out.name}.exporting")
    aside.mkdir(parents=True, exist_ok=True)
    with _alone(out, aside):
        # With the lock held, whatever is there was left by a run that died.
        for stale in aside.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        try:
            yield ExportFolder(aside)
            if not inside:
                # `rename` replaces an empty folder and fails on anything else.
                aside.rename(out)
                sync(out.parent)
        # Also on Ctrl-C.
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        # Not in the block above: after an interruption the next run moves what is left.
        if inside:
            _move_up(aside)


@contextmanager
def _alone(out: Path, aside: Path) -> Iterator[None]:
    """Hold the lock of an export; UserError while another process has it."""
    # The lock is on the folder itself, so it leaves no file behind and ends with the process.
    handle = os.open(aside, os.O_RDONLY)
    try:
        if not try_lock(handle, fcntl.LOCK_EX, out):
            raise UserError(f"{out}: another export is writing there; wait for it")
        yield
    finally:
        os.close(handle)


def earlier_export(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `export.json` of `out` if it is this very export, complete; None for an empty target.

    Raises UserError for anything else in its place, and for an export that was changed.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder, or a path that does not exist")
    if (out / _INSIDE / SUMS).is_file():
        # Complete but for the last step of a run that was killed.
        with _alone(out, out / _INSIDE):
            _move_up(out / _INSIDE)
    if all(path.name == _INSIDE for path in out.iterdir()):
        return None
    try:
        found = json.loads((out / IDENTITY).read_bytes())
        lines = (out / SUMS).read_text().splitlines()
        what = f"{found['to']} of {found['category']} {found['version']}"
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{out} is not empty and is no export; choose another folder or empty it"
        ) from None
    # Another version, format, layout or set of options is another export.
    if any(found.get(key) != value for key, value in identity.items()):
        raise UserError(
            f"{out} holds another export ({what}, options {found.get('options')}); choose another "
            "folder or delete that one"
        )
    # The same export is used again only if no file was changed.
    for line in lines:
        digest, _, name = line.partition("  ")
        path = out / name
        if not path.is_file() or sha256_file(path) != digest:
            raise UserError(
                f"{path} is missing or was changed since the export; delete {out} and export again"
            )
    return found


def _move_up(aside: Path) -> None:
    """Move everything into the folder around it, the checksums last, as they say: complete."""
    out = aside.parent
    for path in sorted(aside.iterdir(), key=lambda path: path.name == SUMS):
        path.rename(out / path.name)
    aside.rmdir()
    sync(out)


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB or (H, W) bool as PNG; a mask becomes 0 and 255."""
    # OpenCV expects BGR.
    mask = image.dtype == np.bool_
    pixels = image.astype(np.uint8) * np.uint8(255) if mask else image[:, :, ::-1]
    done, content = cv2.imencode(".png", pixels, PNG_OPTIONS)
    assert done, "OpenCV encodes every uint8 array"
    return content.tobytes()


def pretty(content: Any) -> bytes:
    """Indented JSON with sorted keys and a newline at the end."""
    # The detour checks and normalises the values: no NaN, no NumPy numbers.
    plain = json.loads(canonical_json(content))
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
