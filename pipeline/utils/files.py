"""Writing to a disk that may be full, read-only, shared, or switched off at any moment.

Files are written atomically: a temporary file is written, synced and renamed, then its folder is
synced. Writers lock folders with `flock`, which the kernel releases when the holder dies. OSErrors
that the user can fix become one line that names the folder.
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
from typing import BinaryIO

from pipeline.errors import UserError
from pipeline.utils.names import is_utf8, text_of

# The table of errno values; every list in the project is one of these. Missing permissions, or a
# read-only share.
NOT_WRITABLE = frozenset((errno.EACCES, errno.EPERM, errno.EROFS))
# The user can fix these wherever they occur: permissions, a full disk or quota, a file in the
# place of a folder.
_USER_ERRORS = NOT_WRITABLE | {errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR}
# While writing to a store. EEXIST is a file in the way and EFBIG a size limit. A missing file or a
# folder in place of one (ENOENT, EISDIR) is not in here: this code chose the path, so it is a bug.
WRITE_ERRORS = _USER_ERRORS | {errno.EEXIST, errno.EFBIG}
# What to do about each of them.
_WRITE_ADVICE = {
    errno.EACCES: "get the permission to write there",
    errno.EPERM: "get the permission to write there",
    errno.EROFS: "have it mounted for writing",
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room within your quota",
    errno.ENOTDIR: "move away the file that is in the place of a folder",
    errno.EEXIST: "move away the file that is in the place of a folder",
    errno.EFBIG: "raise the limit on the size of a file",
}
# For a whole command. Its paths come from the user, so a missing file or a folder in place of one
# is a user error. EEXIST and EFBIG outside of a write are a bug.
COMMAND_ERRORS = _USER_ERRORS | {errno.ENOENT, errno.EISDIR, errno.ENOLCK}
# A file system without locks, such as NFS mounted without them or a share through FUSE.
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP))
# Hiccups of a disk, network share or connection that may be gone in some seconds. Waiting does not
# help against a full disk, a missing file or missing permissions, so these are not in here.
TRANSIENT_ERRORS = frozenset(
    (
        errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOLCK,
        errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
        errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE,
    )
)  # fmt: skip

# The lock file of a folder. It is never deleted, because a waiting writer holds its inode.
LOCK = ".lock"
# Names of the streams that a process has open.
_OPEN_FILE = re.compile(r"/dev/(?:std(?:in|out|err)|fd/\d+)|/proc/[^/]+/fd/\d+")
# Links to links that the kernel follows.
_MAX_LINKS = 40
# Characters of a file stem. A tar header holds 100 for the whole file name.
MAX_NAME_LENGTH = 80


@contextmanager
def named_disk_errors(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk, or a file in the way, into a UserError that names `folder`."""
    try:
        yield
    except OSError as error:
        if error.errno in WRITE_ERRORS:
            raise _write_error(folder, error.errno) from error
        raise


def require_writable(folder: Path, *, by_libraries: bool = False) -> None:
    """UserError unless files can be written into `folder`, or it can be created; changes nothing.

    Call it before hours of work, so that a read-only store is not discovered at their end. Parquet,
    safetensors and ONNX files are opened `by_libraries`, which know paths in UTF-8 only.
    """
    if by_libraries and not is_utf8(folder.absolute()):
        raise UserError(
            f"{text_of(folder)}: the path is not UTF-8 and some libraries cannot open it; name "
            "another folder"
        )
    with named_disk_errors(folder):
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise _write_error(folder, errno.ENOTDIR)
    # On a read-only file system `access` is false even for root.
    if not os.access(place, os.W_OK | os.X_OK):
        read_only = os.statvfs(place).f_flag & os.ST_RDONLY
        raise _write_error(folder, errno.EROFS if read_only else errno.EACCES)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing: temporary file, sync, rename.

    Of a link the file that it leads to is replaced. A device, pipe or open stream (/dev/stdout)
    cannot be replaced, so it is written to.
    """
    if is_stream(path):
        write_stream(path, content)
        return
    path = replaced_by(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process and thread in the name: two writers of the same path do not share a temporary file.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        # Without the sync, a power failure after the rename could leave an empty file.
        os.fsync(file.fileno())
    temporary.replace(path)
    # The rename itself is an entry of the folder and needs a sync of its own.
    sync(path.parent)


def replaced_by(path: Path) -> Path:
    """Where a file is put in place: the path itself, of a link the file that it leads to.

    UserError for a folder, device, pipe or open stream.
    """
    if is_stream(path):
        raise UserError(f"{text_of(path)} is a device, pipe or stream; name a file")
    if path.is_dir():
        raise UserError(f"{text_of(path)} is a folder; name a file")
    return path.resolve() if path.is_symlink() else path


def is_stream(path: Path) -> bool:
    """True for a path that bytes are written to and no file can be put in place of."""
    # A link is followed by hand: /dev/stdout may lead to a regular file that is open elsewhere.
    for _ in range(_MAX_LINKS):
        if _OPEN_FILE.fullmatch(os.path.abspath(path)):
            return True
        if not path.is_symlink():
            return path.exists() and not path.is_file() and not path.is_dir()
        path = path.parent / path.readlink()
    return False


def write_stream(path: Path, content: bytes) -> None:
    """Append bytes to a device, pipe or open stream; blocks until a pipe has a reader."""
    with open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
        stream.write(content)


def sync(path: Path) -> None:
    """Flush a file or a folder to the physical disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(
    folder: Path, *, shared: bool = False, waiting: Callable[[], None] | None = None
) -> Iterator[bool]:
    """Hold a folder's lock, exclusive or shared; yields True when it had to wait for it.

    `waiting` is called once, before the wait.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    with _lock_file(folder) as handle:
        # Try first without blocking, so that the caller can report the wait before it begins.
        waited = not try_lock(handle, kind, folder)
        if waited:
            if waiting:
                waiting()
            fcntl.flock(handle, kind)
        yield waited


@contextmanager
def locked_if_free(folder: Path, touch: bool = True) -> Iterator[bool]:
    """Hold a folder's exclusive lock if it is free; yields False when another process holds it.

    Without `touch` nothing is written: a folder that never had a lock counts as free.
    """
    if not touch and not (folder / LOCK).is_file():
        yield True
        return
    with _lock_file(folder, touch) as handle:
        yield try_lock(handle, fcntl.LOCK_EX, folder)


@contextmanager
def locked_for_appending(path: Path) -> Iterator[BinaryIO]:
    """A file opened to be read and added to, created if absent, locked for this process.

    UserError while another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if not try_lock(file.fileno(), fcntl.LOCK_EX, path.parent):
            raise UserError(f"{path}: another run is writing it; wait for it")
        yield file


@contextmanager
def _lock_file(folder: Path, touch: bool = True) -> Iterator[int]:
    with named_disk_errors(folder):
        if touch:
            folder.mkdir(parents=True, exist_ok=True)
        try:
            # Opened for writing, though nothing is written: NFS gives an exclusive lock only then.
            handle = os.open(folder / LOCK, os.O_RDWR | (os.O_CREAT if touch else 0), 0o644)
        except OSError as error:
            if touch or error.errno not in NOT_WRITABLE:
                raise
            handle = os.open(folder / LOCK, os.O_RDONLY)
    try:
        yield handle
    finally:
        # Closing the last handle releases the flock.
        os.close(handle)


def try_lock(handle: int, kind: int, folder: Path) -> bool:
    """Lock an open file without waiting; False when another process holds it.

    OSError (ENOLCK) that names `folder` and what to do, where its file system has no locks.
    """
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        # Without a lock two runs could spoil each other's work, so there is no going on.
        advice = "choose a folder on a local disk, or have this share mounted with locks"
        raise OSError(errno.ENOLCK, f"{os.strerror(errno.ENOLCK)}; {advice}", folder) from error
    return True


def _write_error(folder: Path, number: int) -> UserError:
    return UserError(
        f"cannot write to {folder}: {os.strerror(number)}; {_WRITE_ADVICE[number]}, or choose "
        "another folder; files that were there before are untouched"
    )


class UniqueNames:
    """File stems from ids: letters, digits, `-` and `_` only, and no stem twice.

    `train/good/000.png@2.0` becomes `train_good_000_2_0`. If two ids would get the same stem, the
    second one gets eight digits of its SHA-256 appended.
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def take(self, sample_id: str) -> str:
        name = slug(sample_id)
        # Compared in lower case, for file systems that do not distinguish case.
        if name.lower() in self._taken:
            name = f"{name[: MAX_NAME_LENGTH - 9]}-{sha256(sample_id.encode()).hexdigest()[:8]}"
        self._taken.add(name.lower())
        return name


def slug(text: str) -> str:
    """Text as part of a file name; the extension of a source file (before `@`) is dropped."""
    path, at, number = text.partition("@")
    stem = re.sub(r"\.[A-Za-z]{3,4}$", "", path)
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", f"{stem}{at}{number}").strip("_-")
    # Shortened names keep a digest of the whole text; nine characters are `-` and eight digits.
    if len(plain) > MAX_NAME_LENGTH or not plain:
        plain = f"{plain[: MAX_NAME_LENGTH - 9]}-{sha256(text.encode()).hexdigest()[:8]}".strip("-")
    return plain
