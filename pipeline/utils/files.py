"""Writing to a disk that may be full, read-only, shared, or switched off at any moment.

A file appears whole or not at all: written aside, synced, renamed, its folder synced. Writers wait
for each other at lock files (`flock`), which the kernel frees when their holder dies, however it
dies. What a disk refuses becomes one line that names it.
"""

import errno
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import get_ident

from pipeline.errors import UserError

LOCK = ".lock"
"""The lock file of a folder. It is never deleted: a waiting writer holds its inode."""
_USERS_ERRORS = (  # a full, forbidden or misnamed place; anything else is a bug or broken hardware
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES),
    *(errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EFBIG),
)


@contextmanager
def naming_the_disk(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk, or a file in the way, into a mistake the user can mend."""
    try:
        yield
    except OSError as error:
        if error.errno in _USERS_ERRORS:
            raise _refused(folder, error.errno) from error
        raise


def require_writable(folder: Path) -> None:
    """UserError unless files can be made in `folder`, or it can be made itself; touches nothing.

    Asked before hours of work, so that a read-only store is not found out at their end.
    """
    with naming_the_disk(folder):
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise _refused(folder, errno.ENOTDIR)
    if not os.access(place, os.W_OK | os.X_OK):  # also false for root on a read-only file system
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        raise _refused(folder, errno.EROFS if read_only else errno.EACCES)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file aside, sync it and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(
    folder: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Hold a folder's lock, alone or with other shared holders; True when it had to be waited for.

    `waiting` is called once, before the wait.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _lock_file(folder) as handle:
        waited = not _taken_at_once(handle, kind)
        if waited:
            if waiting:
                waiting()
            fcntl.flock(handle, kind)
        yield waited


@contextmanager
def locked_if_free(folder: Path, touch: bool = True) -> Iterator[bool]:
    """Hold a folder's lock alone if nobody else holds it; False when somebody does.

    Without `touch` nothing is written: a folder that never had a lock counts as free.
    """
    if not touch and not (folder / LOCK).is_file():
        yield True
        return
    with _lock_file(folder, touch) as handle:
        yield _taken_at_once(handle, fcntl.LOCK_EX)


@contextmanager
def _lock_file(folder: Path, touch: bool = True) -> Iterator[int]:
    with naming_the_disk(folder):
        if touch:
            folder.mkdir(parents=True, exist_ok=True)
        how = os.O_RDWR | os.O_CREAT if touch else os.O_RDONLY
        handle = os.open(folder / LOCK, how, 0o644)
    try:
        yield handle
    finally:
        os.close(handle)


def _taken_at_once(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refused(folder: Path, number: int) -> UserError:
    return UserError(
        f"cannot write to the store at {folder}: {os.strerror(number)}; make room or choose "
        "another --store; what was published is untouched"
    )


LONGEST_NAME = 80
"""Characters of a picture's name; a tar header holds 100 for the whole file name."""


class Names:
    """File stems from ids: letters, digits, `-` and `_` only, and never the same one twice.

    `train/good/000.png@2.0` becomes `train_good_000_2_0`. Two ids that would share a stem are told
    apart by the digest of the second, also where a file system does not tell A from a.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, sample_id: str) -> str:
        name = slug(sample_id)
        if name.lower() in self._taken:
            name = f"{name[: LONGEST_NAME - 9]}-{sha256(sample_id.encode()).hexdigest()[:8]}"
        self._taken.add(name.lower())
        return name


def slug(text: str) -> str:
    """Text as part of a file name; the ending of a source file (before `@`) is left out."""
    path, at, number = text.partition("@")
    stem = re.sub(r"\.[A-Za-z]{3,4}$", "", path)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", f"{stem}{at}{number}").strip("_-")
    if len(plain) > LONGEST_NAME or not plain:
        plain = f"{plain[: LONGEST_NAME - 9]}-{sha256(text.encode()).hexdigest()[:8]}".strip("-")
    return plain
