"""The rule book of a product by eye: draft, name the parts, set counts and places, see what breaks.

GET  /rules/CATEGORY                   the page
GET  /rules/CATEGORY/state             the job that runs, for its progress
GET  /rules/CATEGORY/part|place|broken pictures of a part, its place, a broken rule
POST /rules/CATEGORY/draft|check|stop|edit|undo|reload|save
"""

import re
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field

from flows.serve.background import Background
from flows.serve.layers import encoded
from flows.serve.opened import Opened, OpenVersions
from flows.serve.pages import Pages
from flows.serve.paths import Store
from flows.serve.rule_desk import RuleDesk, Work, book_path, digest_of, models_finder
from pipeline.errors import UserError
from pipeline.rulebook.book import PartRules, Place
from pipeline.rulebook.edit import rename_part, set_rule
from pipeline.rulebook.seen import draw_finding, draw_places
from pipeline.rulebook.sheet import decode, encode, row_of

# Good images that a draft or a check reads by default, as `rules draft` does.
LIMIT = 60
# Images that a page shows of one broken rule.
_SHOWN = 6
_COUNT = re.compile(r"(\d{1,5})(?:\s*(?:-|–|to)\s*(\d{1,5}))?")
# A picture is named by the digest of what it shows.
_KEEP = {"cache-control": "private, max-age=3600"}


class Version(BaseModel):
    """Which version's good images, and how many of them."""

    model_config = ConfigDict(extra="forbid")
    version: str = Field(max_length=200)
    limit: int = Field(LIMIT, ge=1, le=1000)
    digest: str = ""


class State(BaseModel):
    """The digest of the text that a page shows, and of the file on the disk."""

    model_config = ConfigDict(extra="forbid")
    digest: str = ""
    saved: str = ""


class PlaceForm(BaseModel):
    """A place as the page has it; only what belongs to `kind` counts."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["anywhere", "box", "slots"]
    box: list[float] = Field(default_factory=list, max_length=4)
    slots: list[list[float]] = Field(default_factory=list, max_length=200)
    radius: float = 0.05


class Edit(BaseModel):
    """What a person typed about one part."""

    model_config = ConfigDict(extra="forbid")
    digest: str
    part: str = Field(max_length=60)
    name: str = Field(max_length=100)
    count: str = Field(max_length=40)
    place: PlaceForm | None = None


def router(
    pages: Pages,
    store: Store,
    opened: OpenVersions,
    rules: Path | None,
    read_only: bool,
    finder: Callable[[Opened], Any] = models_finder,
) -> APIRouter:
    """The pages of all products; `finder` is that of `RuleDesk`."""
    routes = APIRouter()
    background = Background()
    desks: dict[str, RuleDesk] = {}
    lock = Lock()

    def desk_of(category: str) -> RuleDesk:
        # 404 for a name that the store does not list; only then is it a part of a path.
        known = store.category(category)
        with lock:
            if category not in desks:
                path = book_path(store.folder, rules, known.folder.name)
                desks[category] = RuleDesk(category, path, background, finder)
            return desks[category]

    def work_of(category: str) -> Work:
        work = desk_of(category).current()
        if work is None:
            raise HTTPException(404, "There is no rule book of this product yet.")
        return work

    @routes.get("/rules/{category}")
    def page(category: str) -> Response:
        desk, versions = desk_of(category), store.versions(store.category(category))
        error, work = "", None
        try:
            work = desk.current()
        except UserError as fault:
            # A book that a person has broken by hand: said on the page, and a draft replaces it.
            error = str(fault)
        return pages.page(
            "rules.html.j2",
            category=category,
            desk=desk,
            work=work,
            error=error,
            job=background.of(category),
            versions=[version.name for version in reversed(versions)],
            limit=LIMIT,
            read_only=read_only,
            parts=_parts(work) if work else [],
            others=_others(work) if work else [],
            diff=desk.diff() if work else [],
            saved=digest_of(desk.on_disk()),
            shown=_SHOWN,
        )

    @routes.get("/rules/{category}/state")
    def state(category: str) -> dict[str, Any]:
        desk_of(category)
        job = background.of(category)
        if job is None:
            return {"running": False}
        return {
            "running": job.running, "title": job.title, "step": job.step, "done": job.done,
            "total": job.total, "error": job.error,
        }  # fmt: skip

    @routes.get("/rules/{category}/part/{group}")
    def part_image(category: str, group: int) -> Response:
        work = work_of(category)
        try:
            row = row_of(decode(work.files.sheet), group)
        except (IndexError, UserError):
            raise HTTPException(404, "There is no picture of this part.") from None
        return Response(encode(row), media_type="image/png", headers=_KEEP)

    @routes.get("/rules/{category}/place/{part}")
    def place_image(category: str, part: str) -> Response:
        work = work_of(category)
        if part not in work.book.book.parts or not work.seen:
            raise HTTPException(404, "There is no picture of this place.")
        image = draw_places(work.image(0), work.seen[0], work.book, part, work.seen)
        return _drawn(image)

    @routes.get("/rules/{category}/broken/{rule}/{number}")
    def broken_image(category: str, rule: str, number: int) -> Response:
        work = work_of(category)
        for seen, finding in work.broken.get(rule, ()):
            if seen == number:
                image = draw_finding(work.image(seen), work.seen[seen], work.book, finding)
                return _drawn(image)
        raise HTTPException(404, "This image does not break that rule.")

    @routes.post("/rules/{category}/draft")
    def draft(category: str, wanted: Version) -> dict[str, Any]:
        desk_of(category).draft(_version(opened, category, wanted), wanted.limit)
        return {}

    @routes.post("/rules/{category}/check")
    def check(category: str, wanted: Version) -> dict[str, Any]:
        version = _version(opened, category, wanted)
        desk_of(category).check(wanted.digest, version, wanted.limit)
        return {}

    @routes.post("/rules/{category}/stop")
    def stop(category: str) -> dict[str, Any]:
        desk_of(category)
        background.cancel(category)
        return {}

    @routes.post("/rules/{category}/edit")
    def edit(category: str, typed: Edit) -> dict[str, Any]:
        work = desk_of(category).edit(typed.digest, lambda text: _edited(text, typed))
        return {"digest": work.digest}

    @routes.post("/rules/{category}/undo")
    def undo(category: str, shown: State) -> dict[str, Any]:
        desk_of(category).undo(shown.digest)
        return {}

    @routes.post("/rules/{category}/reload")
    def reload(category: str) -> dict[str, Any]:
        desk_of(category).reload()
        return {}

    @routes.post("/rules/{category}/save")
    def save(category: str, shown: State) -> dict[str, Any]:
        return {"files": [path.name for path in desk_of(category).save(shown.digest, shown.saved)]}

    return routes


def _drawn(image_HW3: np.ndarray) -> Response:
    """A photograph with lines drawn into it."""
    content, kind = encoded("marked", image_HW3)
    return Response(content, media_type=kind, headers=_KEEP)


def _version(opened: OpenVersions, category: str, wanted: Version) -> Opened:
    return opened.get(category, wanted.version)


def _edited(text: str, typed: Edit) -> str:
    """The text with what a person typed about a part; its name last, as the others need it."""
    text = set_rule(text, typed.part, "count", count_of(typed.count))
    if typed.place is not None:
        text = set_rule(text, typed.part, "place", _place_of(typed.place))
    return rename_part(text, typed.part, typed.name.strip())


def count_of(typed: str) -> int | list[int] | str:
    """A count as a book has it, from `3`, `2-4`, `2 to 4` or `any`."""
    words = typed.strip().lower()
    if words == "any":
        return "any"
    found = _COUNT.fullmatch(words)
    if found is None:
        raise UserError(f"expected a count such as 3, 2-4 or any, got {typed!r}")
    low, high = int(found[1]), int(found[2] or found[1])
    return low if low == high else [low, high]


def count_text(rules: PartRules) -> str:
    """The inverse of `count_of`."""
    if isinstance(rules.count, str):
        return rules.count
    low, high = rules.admitted
    return str(low) if low == high else f"{low}-{high}"


def _place_of(form: PlaceForm) -> Any:
    if form.kind == "anywhere":
        return "anywhere"
    if form.kind == "box":
        return {"box": form.box}
    return {"slots": form.slots, "radius": form.radius}


def _parts(work: Work) -> list[dict[str, Any]]:
    """What the page shows of every part of the book."""
    found = []
    for name, rules in work.book.book.parts.items():
        place = rules.place if isinstance(rules.place, Place) else None
        mine = [rule for rule in work.broken if rule.startswith(f"{name}.")]
        found.append(
            {
                "name": name,
                "rules": rules,
                "groups": rules.kinds if work.files.sheet else (),
                "count": count_text(rules),
                "place": "anywhere" if place is None else "box" if place.box else "slots",
                "box": list(place.box) if place and place.box else [],
                "slots": [list(slot) for slot in place.slots or ()] if place else [],
                "radius": place.radius if place else 0.05,
                "broken": [(rule, work.broken[rule]) for rule in mine],
            }
        )
    return found


def _others(work: Work) -> list[tuple[str, str, list[Any]]]:
    """Rules about several parts: name, what it says, and which normals break it."""
    book = work.book.book
    said = []
    for total in book.totals:
        low, high = total.admitted
        number = str(low) if low == high else f"{low} to {high}"
        said.append((total.name, f"{', '.join(total.parts)}: {number} in sum"))
    for pair in book.together:
        said.append((pair.name, f"as many {' as '.join(pair.parts)}"))
    if book.order:
        said.append(("order", "no part lies in a slot of another kind"))
    if book.unknown:
        said.append(("unknown", "every part is of a known kind"))
    return [(name, text, work.broken.get(name, [])) for name, text in said]
