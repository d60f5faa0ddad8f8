"""The file of decisions beside a version: appended to by any number of processes, read by anyone.

`STORE/CATEGORY/VERSION.reviews.jsonl` holds one JSON object per line. An append is one write of
whole lines under a lock, synced to the disk before it returns, so that two browsers, two servers
and a power failure lose nothing. A line that a killed writer left half written is skipped by
readers, and ended by the next append.
"""

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import UserError
from pipeline.review.decision import Decision
from pipeline.utils.files import named_disk_errors, sync, try_lock

# What follows the name of a version in the name of its file of decisions.
SUFFIX = ".reviews.jsonl"
# A line of ours is shorter; a longer one is not parsed.
LONGEST_LINE = 1 << 17


@dataclass(frozen=True, slots=True)
class ReviewLog:
    """The decisions in a file. Holds no open file, so it is cheap to make and safe to share.

    `version` is the name of the version that decisions are about; an append writes it into those
    that name none.
    """

    path: Path
    version: str = ""

    def append(self, decisions: Sequence[Decision]) -> None:
        """Add decisions; when this returns they are on the disk, when it raises none of them is.

        UserError where the folder cannot be written, or the disk is full; it is transient, as a
        later try may succeed.
        """
        if not decisions:
            return
        named = (replace(d, version=d.version or self.version) for d in decisions)
        lines = b"".join(decision.to_line() for decision in named)
        try:
            with named_disk_errors(self.path.parent):
                self._append(lines)
        except UserError as error:
            error.transient = True
            raise

    def _append(self, lines: bytes) -> None:
        created = not self.path.exists()
        handle = _opened(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
        try:
            _lock(handle, fcntl.LOCK_EX, self.path.parent)
            _write(handle, lines)
        finally:
            # Also releases the lock.
            os.close(handle)
        if created:
            # The name of a new file is an entry of its folder, with a sync of its own.
            sync(self.path.parent)

    def read(self) -> tuple[Decision, ...]:
        """All decisions in the order of the file; none while there is no file."""
        return self.read_since(0)[0]

    def read_since(self, offset: int) -> tuple[tuple[Decision, ...], int]:
        """The decisions behind a byte of the file, and the offset to pass next time.

        UserError when the file has become shorter: somebody replaced it, so read it from 0.
        """
        content = self._bytes(offset)
        decisions = map(_parsed, _whole_lines(content))
        end = offset + content.rfind(b"\n") + 1
        return tuple(found for found in decisions if found is not None), end

    def contents(self) -> "Contents":
        """Everything in the file, read once; empty while there is no file."""
        content = self._bytes(0)
        parsed = [_parsed(line) for line in _whole_lines(content)]
        decisions = tuple(decision for decision in parsed if decision is not None)
        return Contents(
            decisions, len(parsed) - len(decisions), hashlib.sha256(content).hexdigest()
        )

    def _bytes(self, offset: int) -> bytes:
        """The file from an offset on."""
        try:
            with open(_opened(self.path, os.O_RDONLY), "rb") as file:
                # Where the file system has no locks, a line that is being written may be missed.
                with suppress(OSError):
                    _lock(file.fileno(), fcntl.LOCK_SH, self.path.parent)
                size = os.fstat(file.fileno()).st_size
                if size < offset:
                    raise UserError(f"{self.path} is shorter than before; somebody replaced it")
                file.seek(offset)
                return file.read()
        except FileNotFoundError:
            if offset:
                raise UserError(f"{self.path} is gone; somebody moved it away") from None
            return b""


@dataclass(frozen=True, slots=True)
class Contents:
    """A file of decisions, read once.

    `unreadable` counts complete lines that hold no decision: left by a killed writer, or by another
    tool. `sha256` is that of the file.
    """

    decisions: tuple[Decision, ...]
    unreadable: int
    sha256: str


def review_log(version_dir: Path) -> ReviewLog:
    """The log of a version, beside its folder."""
    # Resolved, for a folder that is named as `.` or by a link.
    folder = Path(version_dir).resolve()
    return ReviewLog(folder.with_name(folder.name + SUFFIX), folder.name)


def _opened(path: Path, flags: int) -> int:
    """Open a log; UserError for a link, a folder, a pipe or a device in its place.

    A store may come from somebody else: a link in it must not lead what is appended into another
    file, nor a pipe hold up the server.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    raise UserError(
        f"{path} is no file: expected the decisions themselves, got a link, a folder or a device; "
        "move it away"
    )


def _whole_lines(content: bytes) -> list[bytes]:
    """The lines of a file that are not empty."""
    # What follows the last line break is still being written, or its writer was killed.
    return [line for line in content[: content.rfind(b"\n") + 1].split(b"\n") if line.strip()]


def _write(handle: int, lines: bytes) -> None:
    """Write lines at the end of a locked file and sync it; on an error the file is as before."""
    size = os.fstat(handle).st_size
    # A killed writer left a line without an end; ours must not become its continuation.
    if size and os.pread(handle, 1, size - 1) != b"\n":
        lines = b"\n" + lines
    try:
        written = 0
        # One call writes everything, except on a disk that becomes full.
        while written < len(lines):
            written += os.write(handle, lines[written:])
        os.fsync(handle)
    except BaseException:
        os.ftruncate(handle, size)
        raise


def _parsed(line: bytes) -> Decision | None:
    if len(line) > LONGEST_LINE:
        return None
    try:
        return Decision.from_line(line)
    except UserError:
        return None


def _lock(handle: int, kind: int, folder: Path) -> None:
    """Lock an open file, waiting for the process that holds it; closing the file unlocks it."""
    if not try_lock(handle, kind, folder):
        fcntl.flock(handle, kind)
