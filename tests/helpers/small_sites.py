"""A small store to serve, with names that must be escaped, and requests as raw as on a socket."""

import asyncio
import json
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI
from small_results import header, image_result, small_version

from pipeline.gate.settings import GateSettings
from pipeline.generation.publish import publish

HOST = "http://127.0.0.1:8765"
# Names of a product and an image that a page must not take for HTML.
NASTY = "<script>alert('product') & Ünïcode ☃"
NASTY_IMAGE = 'good/<script>alert("image")</script>&\'.png'
# What lies beside the store, and must never be sent.
SECRET = "what nobody may read"


@dataclass(frozen=True)
class Site:
    """A store, its folder of runs, and the versions of its product `tray`, oldest first."""

    store: Path
    runs: Path
    versions: tuple[str, ...]


def small_site(folder: Path) -> Site:
    """Two versions of `tray`, one of a nasty name, links that lead out, two reports."""
    store, outside = folder / "store", folder / "outside"
    head = header(settings={"gate": GateSettings().model_dump(mode="json"), "edits": {}})
    results = [image_result(n) for n in range(6)]
    first = small_version(store, results=results[:5], head=head)
    # The next one has another image, and one kind less of the second.
    changed = [*results[:1], image_result(1, turns=(("missing", ""),)), *results[2:]]
    second = small_version(store, results=changed, head=replace(head, plan_digest="a" * 64))
    nasty = [image_result(7, name=NASTY_IMAGE)]
    publish(store, NASTY, nasty, (), head, gallery=False)
    publish(outside, "other", results[:1], (), head, gallery=False)
    (outside / "secret.txt").write_text(SECRET)
    (store / "linked").symlink_to(outside / "other")
    (store / ".hidden").mkdir()
    (store / "secret.txt").symlink_to(outside / "secret.txt")
    return Site(store, _runs(folder / "runs", outside), (first.name, second.name))


def _runs(runs: Path, outside: Path) -> Path:
    """A report, a page of `compare` with figures that make no sense, and a link out."""
    (runs / "a" / "report").mkdir(parents=True)
    (runs / "a" / "report" / "report.html").write_text("<script>alert(1)</script>the report")
    figures = {"detector": "nearest", "category": NASTY, "image_auroc": 0.9}
    (runs / "a" / "report" / "report.json").write_text(json.dumps(figures))
    (runs / "b").mkdir()
    (runs / "b" / "compare.html").write_text("the comparison")
    (runs / "b" / "compare.json").write_text("[")
    (runs / "c").mkdir()
    (runs / "c" / "report.html").symlink_to(outside / "secret.txt")
    return runs


@dataclass(frozen=True)
class Answer:
    """What came back, with the names of headers in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


def ask(
    app: FastAPI,
    target: str | bytes,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Send a request as it is: no client tidies `..` or `%2e%2e` in the target away."""
    raw = target.encode() if isinstance(target, str) else target
    path, _, query = raw.partition(b"?")
    given = {"host": "127.0.0.1:8765"} | (headers or {})
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(path.decode("latin-1")), "raw_path": path,
        "query_string": query, "root_path": "", "client": ("127.0.0.1", 1), "server": None,
        "headers": [(k.encode("latin-1"), v.encode("latin-1")) for k, v in given.items()],
    }  # fmt: skip
    return asyncio.run(_answer(app, scope, body))


async def _answer(app: FastAPI, scope: dict[str, Any], body: bytes) -> Answer:
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in sent[0]["headers"]}
    return Answer(sent[0]["status"], headers, b"".join(m.get("body", b"") for m in sent[1:]))


class Outline(HTMLParser):
    """The start tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, name: str) -> list[str]:
        """The values of an attribute of all tags of that name."""
        return [attrs[name] or "" for found, attrs in self.tags if found == tag and name in attrs]
