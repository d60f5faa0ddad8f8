"""Fetch a model file from its publisher: resumed, checked, pinned, then renamed into place.

The only code of the project that downloads, and it runs only when a person asks for it. A broken
download stays as `FILE.part`; the same command goes on from there, provided that the server still
offers the same file (its ETag or date, kept in `FILE.part.tag`).
"""

import shutil
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pipeline.errors import WeightsError
from pipeline.models.weights import store as weights
from pipeline.models.weights.catalog import WeightsEntry

CHUNK = 1 << 20
TIMEOUT = 60

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all; 0 when unknown)."""


def pullable(name: str) -> WeightsEntry:
    """The entry of that name; WeightsError when it is nothing that can be fetched as one file."""
    wanted = weights.entry(name)
    if not wanted.url and not wanted.bundled:
        where = weights.folders()[0] / wanted.file
        raise WeightsError(
            f"{name} is a folder of your own and is not fetched: {wanted.get} ({where})"
        )
    return wanted


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch one entry into the first weights folder, unless it is there; returns its path."""
    wanted = pullable(name)
    if wanted.bundled:
        return weights.require(name)
    target = weights.folders()[0] / wanted.file
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        # A zip is fetched under its own name: several entries may lie in it.
        part = target.with_name(Path(wanted.url).name if wanted.member else wanted.file)
        part = part.with_name(part.name + ".part")
        try:
            _fetch(wanted.url, part, progress)
        except (OSError, HTTPException) as error:
            raise WeightsError(
                f"cannot fetch {wanted.url}: {error}; with no network copy the file to {target}"
            ) from error
        _receive(wanted, part, target)
    weights.settle(name, target)
    return target


def _receive(wanted: WeightsEntry, part: Path, target: Path) -> None:
    """Check what came and give it its name; wrong bytes do not stay."""
    try:
        if wanted.member:
            weights.compare(wanted.name, part, wanted.digest)
            _unpack(wanted, part)
        else:
            weights.check(wanted.name, part, pinned_in=target.parent)
            part.replace(target)
    except WeightsError:
        part.unlink()
        raise
    finally:
        _tag(part).unlink(missing_ok=True)


def _unpack(wanted: WeightsEntry, archive: Path) -> None:
    """Take every entry's file out of a zip whose digest is right, by its stated name only."""
    siblings = [entry for entry in weights.entries() if entry.url == wanted.url and entry.member]
    with zipfile.ZipFile(archive) as pack:
        for entry in siblings:
            target = archive.with_name(entry.file)
            if target.is_file():
                continue
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
            weights.settle(entry.name, target)
    archive.unlink()


def _fetch(url: str, part: Path, progress: Progress | None) -> None:
    """Bring `part` to the server's length, going on where an earlier run of it ended."""
    done = part.stat().st_size if part.exists() else 0
    tag = _tag(part).read_text().strip() if done and _tag(part).exists() else ""
    if done and not tag:  # no word on whether the server still has the same file
        done = 0
    # With If-Range the server sends the rest of the very same file, else all of the new one.
    headers = {"Range": f"bytes={done}-", "If-Range": tag} if done else {}
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != 416 or not done:
            raise
        if _length(error.headers.get("Content-Range")) == done:
            return  # all of it was here already
        answer = urlopen(Request(url), timeout=TIMEOUT)
    with answer:
        if answer.status != 206:  # the server starts again from the first byte
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
            f"the connection ended after {done} of {total} bytes; the same command goes on"
        )


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _strong_tag(etag: str | None, date: str | None) -> str:
    """What names one state of the file; a weak ETag (`W/…`) does not promise the same bytes."""
    return etag if etag and not etag.startswith("W/") else date or ""


def _length(content_range: str | None) -> int:
    """`bytes */123` -> 123; 0 when not said."""
    total = (content_range or "").rpartition("/")[2]
    return int(total) if total.isdigit() else 0
