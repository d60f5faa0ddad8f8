"""The folder of an export: whole or not there, and the same bytes every time.

Files go into a hidden folder beside the wanted place, which is renamed at the end; whatever a
killed run left there is thrown away by the next. `export.json` says what an export is of; a second
export of the same thing into the same place is checked against `SHA256SUMS` and left as it is.
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
from pipeline.utils.files import sync
from pipeline.utils.hashing import canonical_json, sha256_file

IDENTITY = "export.json"
LINEAGE = "lineage.jsonl"
PNG_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
)
"""Lossless like every PNG; a quarter of the time of zlib's level 6 and no larger on photographs."""


class ExportFolder:
    """Where a format writes. Paths are relative with `/`; every file is written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digests: dict[str, str] = {}
        self.on_picture: Callable[[int], None] | None = None
        self._lineage: list[bytes] = []

    def png(self, path: str, image: np.ndarray) -> str:
        """Write (H, W, 3) uint8 RGB, or an (H, W) bool mask as 0 and 255; returns the path."""
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
        """Where a file goes that the caller writes itself and then hands to `wrote`."""
        target = self.folder / path
        if path in self.digests:
            raise AssertionError(f"{path} is written twice")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def wrote(self, path: str) -> None:
        self.digests[path] = sha256_file(self.folder / path)

    def lineage(self, row: Mapping[str, Any]) -> None:
        """One line of `lineage.jsonl` for one picture that is written: which file is what."""
        self._lineage.append(canonical_json(row) + b"\n")
        if self.on_picture:
            self.on_picture(self.pictures)

    @property
    def pictures(self) -> int:
        """How many pictures are written."""
        return len(self._lineage)

    def finish(self, identity: Mapping[str, Any]) -> None:
        """Write lineage, sums and, last, the identity."""
        self.write(LINEAGE, b"".join(self._lineage))
        self.json(IDENTITY, identity)
        lines = (f"{self.digests[name]}  {name}\n" for name in sorted(self.digests))
        self.text(SUMS, "".join(lines))
        sync(self.folder)


@contextmanager
def export_folder(out: Path) -> Iterator[ExportFolder]:
    """A hidden folder that becomes `out` when the block ends well and vanishes when it does not."""
    out = Path(os.path.abspath(out))
    aside = out.with_name(f".{out.name}.exporting")
    aside.mkdir(parents=True, exist_ok=True)
    handle = os.open(aside, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another export is writing there; wait for it") from None
        for stale in aside.iterdir():
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        try:
            yield ExportFolder(aside)
            aside.rename(out)  # an empty folder may be in the way; anything else is refused
            sync(out.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
    finally:
        os.close(handle)


def earlier_export(out: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `export.json` says when `out` holds this very export, whole; None when there is room.

    Raises UserError for anything else that lies there, and for an export that was changed.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise UserError(f"{out} is a file; expected a folder, or a path where one can be made")
    if not any(out.iterdir()):
        return None
    try:
        found = json.loads((out / IDENTITY).read_bytes())
        lines = (out / SUMS).read_text().splitlines()
        what = f"{found['to']} of {found['category']} {found['version']}"
    except (OSError, ValueError, TypeError, KeyError):
        raise UserError(
            f"{out} is not empty and holds no export; choose another folder or empty it"
        ) from None
    if any(found.get(key) != value for key, value in identity.items()):
        raise UserError(
            f"{out} holds another export ({what}, options {found.get('options')}); choose another "
            "folder or delete that one"
        )
    for line in lines:
        digest, _, name = line.partition("  ")
        path = out / name
        if not path.is_file() or sha256_file(path) != digest:
            raise UserError(
                f"{path} is missing or was changed since the export; delete {out} and export again"
            )
    return found


def png_bytes(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB or (H, W) bool as PNG; a mask becomes 0 and 255."""
    mask = image.dtype == np.bool_
    pixels = image.astype(np.uint8) * np.uint8(255) if mask else image[:, :, ::-1]
    done, content = cv2.imencode(".png", pixels, PNG_OPTIONS)
    assert done, "OpenCV encodes every uint8 array"
    return content.tobytes()


def pretty(content: Any) -> bytes:
    """JSON for people: indented, sorted, one newline at the end."""
    plain = json.loads(canonical_json(content))
    return json.dumps(plain, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
