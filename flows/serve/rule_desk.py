"""The rule book of one product while it is drafted and edited: in memory until it is saved.

The path of every book is fixed when the server starts, and no request has a part in it but the name
of a product that the store lists.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import unified_diff
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np

from flows.serve.background import Background, Job
from flows.serve.opened import Opened
from pipeline.errors import UserError
from pipeline.rulebook.book import RuleBook
from pipeline.rulebook.findings import Finding
from pipeline.rulebook.seen import SeenImage
from pipeline.rulebook.write import BookFiles

SUFFIX = ".rules.yaml"


@dataclass(frozen=True)
class Work:
    """A book in one state: its files, and the normal images that it is checked on.

    `images` are (shard, row) of `seen` in `opened`; both are empty before a book from the disk has
    been checked.
    """

    files: BookFiles
    path: Path
    seen: tuple[SeenImage, ...] = ()
    images: tuple[tuple[int, int], ...] = ()
    opened: Opened | None = None

    @cached_property
    def digest(self) -> str:
        """Names this state in requests."""
        return sha256(self.files.text.encode()).hexdigest()

    @cached_property
    def book(self) -> RuleBook:
        return self.files.rules(self.path)

    @cached_property
    def broken(self) -> dict[str, list[tuple[int, Finding]]]:
        """For every rule that normals break: which ones, and how."""
        found: dict[str, list[tuple[int, Finding]]] = {}
        for number, seen in enumerate(self.seen):
            for finding in seen.broken(self.book):
                found.setdefault(finding.rule, []).append((number, finding))
        return found

    def image(self, number: int) -> np.ndarray:
        """The pixels of a normal image, (H, W, 3) uint8; IndexError when there is none."""
        assert self.opened is not None
        shard, row = self.images[number]
        with self.opened.lock:
            return self.opened.version.shards[shard].original(row)


def models_finder(opened: Opened) -> Any:
    """The part finder with the models of the version: its samples were judged with them.

    Whatever the run has left in the stage cache is not found again.
    """
    from pipeline.generation.reproduce import models_of
    from pipeline.generation.study import finder_of_version

    return finder_of_version(opened.version, lambda: models_of(opened.version))


@dataclass
class RuleDesk:
    """What the page of a product works on. Safe for several threads.

    `finder` makes the part finder for the images of a version.
    """

    category: str
    path: Path
    background: Background
    finder: Callable[[Opened], Any] = models_finder
    work: Work | None = None
    # Earlier states, for undo.
    before: list[Work] = field(default_factory=list)
    lock: Any = field(default_factory=RLock)

    def current(self) -> Work | None:
        """The book that is edited, else the one on the disk, else None."""
        with self.lock:
            if self.work is None and self.path.is_file():
                self.work = Work(self._read(), self.path)
            return self.work

    def _read(self) -> BookFiles:
        files = BookFiles.read(self.path)
        about = files.rules(self.path).book.category
        if about != self.category:
            raise UserError(f"{self.path} holds the rules of {about}, not those of {self.category}")
        return files

    def on_disk(self) -> str:
        """The text of the saved book; empty where there is none."""
        return self.path.read_text("utf-8") if self.path.is_file() else ""

    def diff(self) -> list[str]:
        """What saving would change, as lines of a unified diff."""
        work = self.current()
        lines = unified_diff(
            self.on_disk().splitlines(), work.files.text.splitlines() if work else [],
            "saved", "edited", lineterm="",
        )  # fmt: skip
        return list(lines)

    def edit(self, digest: str, change: Callable[[str], str]) -> Work:
        """Change the text; UserError when it is not the one that the page had shown."""
        with self.lock:
            work = self._expect(digest)
            text = change(work.files.text)
            if text != work.files.text:
                self.before.append(work)
                files = work.files.with_text(text, self.path)
                self.work = Work(files, self.path, work.seen, work.images, work.opened)
            assert self.work is not None
            return self.work

    def undo(self, digest: str) -> None:
        """Take the last edit back."""
        with self.lock:
            self._expect(digest)
            if self.before:
                self.work = self.before.pop()

    def reload(self) -> None:
        """Forget what was not saved."""
        with self.lock:
            self.work, self.before = None, []

    def save(self, digest: str, saved: str) -> list[Path]:
        """Write the book; `saved` is the digest of the file that the page's diff was made with."""
        with self.lock:
            work = self._expect(digest)
            if saved != digest_of(self.on_disk()):
                raise UserError(f"{self.path.name} has changed on the disk; look at the new diff")
            if self.path.is_file():
                # Never over the book of another product.
                self._read()
            return work.files.write(self.path)

    def draft(self, opened: Opened, limit: int) -> None:
        """Draft a book from the training normals of a version, in the background."""

        def run(job: Job) -> None:
            from pipeline.rulebook.second_look import draft_twice

            find, places = self.finder(opened), _normals(opened, ("train",), limit)
            images = [_studied(find, opened, place) for place in places]
            found = []
            for number, image_HW3 in enumerate(images):
                job.at("finding parts", number, len(images))
                found.append(find(image_HW3))

            def again(number: int) -> np.ndarray:
                job.at("looking again", number, len(images))
                return images[number]

            made, found = draft_twice(found, again, find, opened.version.category)
            job.at("writing the draft", len(images), len(images))
            files = BookFiles.of(made, self.path, found, images.__getitem__)
            self._take(files, found, opened, places)

        self.background.start(self.category, "the draft", run)

    def check(self, digest: str, opened: Opened, limit: int) -> None:
        """Find the parts of a version's normals as this book sees them, in the background."""
        work = self._expect(digest)

        def run(job: Job) -> None:
            from pipeline.rulebook.second_look import parts_of

            find = self.finder(opened)
            places, found = _normals(opened, ("train", "validation"), limit), []
            for number, place in enumerate(places):
                job.at("finding parts", number, len(places))
                found.append(parts_of(work.book, find, _studied(find, opened, place)))
            now = self.current()
            # Edited meanwhile: the parts are those of the product all the same.
            self._take(now.files if now else work.files, found, opened, places)

        self.background.start(self.category, "the check", run)

    def _take(self, files: BookFiles, found: Any, opened: Opened, places: Any) -> None:
        """Go on with the result of a job."""
        seen = tuple(
            SeenImage.of(_record(opened, place)["name"], parts)
            for place, parts in zip(places, found, strict=True)
        )
        with self.lock:
            if self.work is not None and self.work.files.text != files.text:
                self.before.append(self.work)
            self.work = Work(files, self.path, seen, tuple(places), opened)

    def _expect(self, digest: str) -> Work:
        work = self.current()
        if work is None or work.digest != digest:
            raise UserError("the rule book has been changed on another page; reload this one")
        return work


def digest_of(text: str) -> str:
    """The digest of a text; empty for none."""
    return sha256(text.encode()).hexdigest() if text else ""


def book_path(store: Path, rules: Path | None, category: str) -> Path:
    """Where the rule book of a product is.

    `rules` is a YAML file, or a folder of CATEGORY.rules.yaml; without it the folder that the store
    is in.
    """
    if rules is not None and rules.suffix in (".yaml", ".yml"):
        return rules
    return (rules or store.resolve().parent) / f"{category}{SUFFIX}"


def _normals(opened: Opened, splits: tuple[str, ...], limit: int) -> list[tuple[int, int]]:
    """Shard and row of at most `limit` normals, evenly spread over the sorted names."""
    names = sorted(
        (record["name"], place) for place, record in _records(opened) if record["split"] in splits
    )
    if not names:
        raise UserError(f"{opened.version.name} has no good image in {' or '.join(splits)}")
    if limit < len(names):
        names = [names[k] for k in np.linspace(0, len(names) - 1, limit).round().astype(int)]
    return [place for _, place in names]


def _records(opened: Opened) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    for number, shard in enumerate(opened.version.shards):
        for row in range(shard.images):
            yield (number, row), _record(opened, (number, row))


def _record(opened: Opened, place: tuple[int, int]) -> dict[str, Any]:
    with opened.lock:
        return opened.version.shards[place[0]].image_record(place[1])


def _studied(find: Any, opened: Opened, place: tuple[int, int]) -> np.ndarray:
    """The pixels of an image, of which the finder hears from which file they were."""
    image_HW3: np.ndarray = find.of_file(_pixels(opened, place), _record(opened, place)["digest"])
    return image_HW3


def _pixels(opened: Opened, place: tuple[int, int]) -> np.ndarray:
    with opened.lock:
        return opened.version.shards[place[0]].original(place[1])
