"""Rule books by eye: the page drafts, edits and saves the files that `rules draft` writes."""

import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_rules as toy
from drawn_boards import boards
from fastapi import FastAPI
from fastapi.testclient import TestClient

from flows.serve import rules
from flows.serve.errors import add_error_pages
from flows.serve.opened import OpenVersions
from flows.serve.pages import Pages
from flows.serve.paths import Store
from flows.serve.rule_desk import book_path
from flows.serve.rules import count_of
from flows.serve.safety import Access, Safety
from pipeline.dataset.version import Version
from pipeline.errors import UserError
from pipeline.rulebook.book import load
from pipeline.rulebook.draft import draft
from pipeline.rulebook.write import write_draft

HOST = "http://127.0.0.1:8765"
LONGEST = 60


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Twelve boards, nine of them for training."""
    return boards(tmp_path_factory.mktemp("boards") / "store", images=12)


class Site:
    """The pages of rules alone, with a finder that needs no model."""

    def __init__(self, version: Version, folder: Path, **access: Any) -> None:
        self.version, self.path = version, folder / "board.rules.yaml"
        store = Store(version.dir.parent.parent)
        opened = OpenVersions(store)
        pages = Pages({"store": "store", "read_only": bool(access), "has_reports": False})
        app = FastAPI()
        app.include_router(
            rules.router(pages, store, opened, folder, bool(access), lambda _: toy.ToyFinder())
        )
        add_error_pages(app, pages)
        app.add_middleware(Safety, access=Access(**access))
        self.client = TestClient(
            app, base_url=HOST, headers={"origin": HOST}, raise_server_exceptions=False
        )

    def page(self) -> str:
        answer = self.client.get("/rules/board")
        assert answer.status_code == 200, answer.text
        return answer.text

    def shown(self) -> dict[str, str]:
        """What the page's script sends along."""
        found = re.search(r'data-digest="(\w*)" data-saved="(\w*)"', self.page())
        assert found
        return {"digest": found[1], "saved": found[2]}

    def post(self, what: str, **content: Any) -> Any:
        return self.client.post(f"/rules/board/{what}", json=content)

    def run(self, what: str, limit: int = 60) -> None:
        digest = self.shown()["digest"]
        answer = self.post(what, version=self.version.name, limit=limit, digest=digest)
        assert answer.status_code == 200, answer.text
        until = time.monotonic() + LONGEST
        while (state := self.client.get("/rules/board/state").json())["running"]:
            assert time.monotonic() < until, state
            time.sleep(0.01)
        assert state["error"] == ""

    def edit(self, part: str, **typed: Any) -> Any:
        content = {"part": part, "name": part, "count": "any", **typed}
        return self.post("edit", digest=self.shown()["digest"], **content)


@pytest.fixture
def site(version: Version, tmp_path: Path) -> Site:
    return Site(version, tmp_path)


@pytest.fixture
def drafted(site: Site) -> Site:
    site.run("draft")
    return site


@pytest.fixture(scope="module")
def unchanged(version: Version, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A draft that tests leave as it is."""
    site = Site(version, tmp_path_factory.mktemp("unchanged"))
    site.run("draft")
    return site


def test_an_unedited_draft_is_saved_as_the_command_writes_it(
    drafted: Site, version: Version, tmp_path: Path
) -> None:
    assert not drafted.path.exists()
    assert drafted.post("save", **drafted.shown()).status_code == 200
    # As `rules draft`: the training normals by name.
    images = [image for image, record in version.images("train")]
    found = [toy.ToyFinder()(image) for image in images]
    written = write_draft(
        draft(found, "board"), tmp_path / "command" / drafted.path.name, found, images.__getitem__
    )
    for path in written:
        assert path.read_bytes() == (drafted.path.parent / path.name).read_bytes(), path.name
    assert "holds these rules" in drafted.page()


def test_a_part_is_named_counted_and_placed(drafted: Site) -> None:
    box = {"kind": "box", "box": [-0.5, -0.5, 0, 0.5]}
    assert drafted.edit("part_1", name="disc", count="2-4", place=box).status_code == 200
    page = drafted.page()
    assert 'value="disc"' in page
    assert 'value="2-4"' in page
    # Nothing is written before somebody has seen what changes and saves.
    assert not drafted.path.exists()
    drafted.post("save", **drafted.shown())
    book = load(drafted.path).book
    assert book.parts["disc"].count == (2, 4)
    assert book.parts["disc"].place.box == (-0.5, -0.5, 0.0, 0.5)  # type: ignore[union-attr]
    # The next edit shows the changed lines alone.
    drafted.edit("disc", count="3", place=box)
    lines = re.findall(r'<span class="(?:add|del)">([^<]*)\n', drafted.page())
    assert lines == ["-    count: [2, 4]", "+    count: 3"]
    drafted.post("undo", **drafted.shown())
    assert "holds these rules" in drafted.page()


def test_which_good_images_break_a_rule_is_seen_at_once(drafted: Site) -> None:
    assert "All good images keep these rules" in drafted.page()
    drafted.edit("part_1", count="4")
    page = drafted.page()
    assert '9 of 9 good images break <b class="mono">part_1.count</b>' in page
    for path in re.findall(r'src="(/rules/board/[^"]+)"', page):
        answer = drafted.client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith("image/")
    assert drafted.client.get("/rules/board/broken/part_2.count/0").status_code == 404
    assert drafted.client.get("/rules/board/part/99").status_code == 404


def test_a_book_from_the_disk_is_checked_on_all_good_images(
    drafted: Site, version: Version
) -> None:
    drafted.post("save", **drafted.shown())
    later = Site(version, drafted.path.parent)
    assert "Not checked on good images yet" in later.page()
    later.run("check")
    assert "Checked on 12 good images" in later.page()
    # Checking changes nothing.
    assert "holds these rules" in later.page()


def test_two_pages_do_not_overwrite_each_other(drafted: Site, version: Version) -> None:
    old = drafted.shown()
    drafted.edit("part_1", name="disc")
    for what in ("save", "undo", "edit"):
        more = {"part": "part_2", "name": "bar", "count": "2"} if what == "edit" else {}
        answer = drafted.post(what, **({"digest": old["digest"]} | more))
        assert answer.status_code == 400
        assert "changed on another page" in answer.json()["error"]
    # Nor what somebody has written by hand meanwhile.
    shown = drafted.shown()
    drafted.post("save", **shown)
    by_hand = drafted.path.read_text() + "# mine\n"
    drafted.path.write_text(by_hand)
    answer = drafted.post("save", **drafted.shown() | {"saved": shown["saved"]})
    assert "has changed on the disk" in answer.json()["error"]
    assert drafted.path.read_text() == by_hand
    drafted.post("reload")
    assert "holds these rules" in drafted.page()


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ({"name": "../evil"}, "expected a name of letters"),
        ({"name": "part_2"}, "there is a part part_2 already"),
        ({"count": "several"}, "expected a count such as 3, 2-4 or any"),
        ({"count": "5-2"}, "must not be above"),
        ({"place": {"kind": "box", "box": [1, 2]}}, "parts.part_1.place"),
        ({"place": {"kind": "slots", "slots": [], "radius": 1}}, "at least one"),
        ({"path": "/etc/passwd"}, "path"),
    ],
)
def test_a_wrong_edit_changes_nothing(unchanged: Site, typed: Any, said: str) -> None:
    before = unchanged.shown()
    answer = unchanged.edit("part_1", **typed)
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]
    assert unchanged.shown() == before


def test_one_job_at_a_time_which_can_be_ended(
    version: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(version, tmp_path)
    find = toy.ToyFinder.__call__

    def slow(self: toy.ToyFinder, image_HW3: np.ndarray) -> Any:
        time.sleep(0.05)
        return find(self, image_HW3)

    monkeypatch.setattr(toy.ToyFinder, "__call__", slow)
    wanted = {"version": version.name, "limit": 60}
    assert site.post("draft", **wanted).status_code == 200
    assert "is running" in site.post("draft", **wanted).json()["error"]
    site.post("stop")
    while site.client.get("/rules/board/state").json()["running"]:
        time.sleep(0.01)
    assert "ended before it was done" in site.page()
    assert site.shown()["digest"] == ""


def test_what_cannot_be_drafted_is_said(site: Site, version: Version) -> None:
    assert "There is no rule book at" in site.page()
    site.post("draft", version=version.name, limit=5)
    while site.client.get("/rules/board/state").json()["running"]:
        time.sleep(0.01)
    assert "5 good images are too few" in site.page()
    # A book that somebody has damaged by hand does not take the page away.
    site.path.write_text("parts: {}\n")
    assert f"{site.path}:1:" in site.page()


def test_a_read_only_page_has_no_button_that_writes(version: Version, drafted: Site) -> None:
    drafted.post("save", **drafted.shown())
    page = Site(version, drafted.path.parent, read_only=True)
    assert page.edit("part_1", name="disc").status_code == 403
    assert 'data-post="save"' not in page.page()
    assert 'type="submit"' not in page.page()


@pytest.mark.parametrize("name", ["..", "board%2f..", "nothing", "%2e%2e%2fetc"])
def test_only_products_of_the_store_have_a_book(site: Site, name: str) -> None:
    assert site.client.get(f"/rules/{name}").status_code in (404, 405)
    assert site.client.post(f"/rules/{name}/save", json={}).status_code in (404, 405)


def test_the_path_of_a_book_is_fixed_when_the_server_starts(tmp_path: Path) -> None:
    store = tmp_path / "out" / "store"
    assert book_path(store, None, "nut") == tmp_path.resolve() / "out" / "nut.rules.yaml"
    assert book_path(store, tmp_path / "books", "nut") == tmp_path / "books" / "nut.rules.yaml"
    assert book_path(store, tmp_path / "my.yaml", "nut") == tmp_path / "my.yaml"


def test_the_book_of_another_product_is_not_opened(drafted: Site, version: Version) -> None:
    drafted.post("save", **drafted.shown())
    text = drafted.path.read_text().replace('category: "board"', 'category: "tray"')
    drafted.path.write_text(text)
    assert (
        "holds the rules of tray, not those of board" in Site(version, drafted.path.parent).page()
    )


def test_counts_as_people_type_them() -> None:
    assert [count_of(text) for text in ("3", " 2-4 ", "2 to 4", "2–4", "4-4", "ANY")] == [
        3, [2, 4], [2, 4], [2, 4], 4, "any",
    ]  # fmt: skip
    for text in ("", "-1", "1-", "three", "1e9", "123456"):
        with pytest.raises(UserError, match="expected a count"):
            count_of(text)


def test_state_before_any_job(site: Site) -> None:
    assert json.loads(site.client.get("/rules/board/state").text) == {"running": False}
