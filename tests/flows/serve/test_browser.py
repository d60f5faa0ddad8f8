"""The pages in a real browser: by keyboard, on a phone, in the dark; with a server that dies."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import toy_rules as toy
from browsing import chromium, running, serious_faults, served, visitor
from drawn_boards import boards

from flows.serve.app import create_app
from flows.serve.pages import address
from pipeline.dataset.version import Version, open_version
from pipeline.review.log import review_log
from pipeline.review.order import teaching_order
from pipeline.rulebook.book import load
from pipeline.rulebook.draft import draft
from pipeline.rulebook.write import write_draft

PHONE = {"viewport": {"width": 375, "height": 720}, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Version:
    return boards(tmp_path_factory.mktemp("boards") / "store", images=8)


@pytest.fixture
def version(made: Version, tmp_path: Path) -> Version:
    """A copy that a test may review."""
    return open_version(copytree(made.dir, tmp_path / "store" / "board" / made.name))


def store_of(version: Version) -> Path:
    return version.dir.parent.parent


def open_review(page: Any, version: Version) -> None:
    page.goto(address("board", version.name, "review"))
    page.wait_for_selector("#review[data-ready='1']")


def press(page: Any, keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)


def wait_until_saved(page: Any, count: int) -> None:
    page.wait_for_selector("#sync[data-state=idle]")
    page.get_by_text(f"{count} of 32 reviewed").wait_for()


def verdicts(version: Version) -> dict[str, str | None]:
    """What stands of Anna, by sample, in the order of the decisions."""
    from pipeline.review.state import ReviewState

    state = ReviewState(review_log(version.dir).read())
    return {sample: d.verdict for sample, d in state.verdicts_of("Anna").items()}


def test_reviewing_by_key(browser: Any, version: Version) -> None:
    order = teaching_order(version)
    app = create_app(store_of(version))
    with running(app) as where, visitor(browser, where, name="") as page:
        page.goto(address("board", version.name, "review"))
        # Asked once, remembered after.
        page.keyboard.type("Anna")
        page.keyboard.press("Enter")
        page.wait_for_selector("#single:not([hidden])")
        press(page, "k r 2 z u n")
        # What is pasted may hold a tab, which is no letter.
        page.keyboard.insert_text("is this\ta shadow?")
        page.keyboard.press("Enter")
        press(page, "k")
        wait_until_saved(page, 4)
        assert serious_faults(page) == []
    assert verdicts(version) == dict(zip(order, ("keep", "reject", "unsure", "keep"), strict=False))
    last = review_log(version.dir).read()[-1]
    assert (last.sample, last.note) == (order[3], "is this a shadow?")


@pytest.mark.slow
def test_twenty_samples_with_a_server_that_is_killed(
    browser: Any, version: Version, anomalysmith: Callable[..., Any]
) -> None:
    """By keyboard, with a reload and a kill on the way; then curate, verify, and count."""
    order = teaching_order(version)
    with served(store_of(version)) as server, visitor(browser, server.address) as page:
        open_review(page, version)
        press(page, "k r u k 1")
        wait_until_saved(page, 5)
        page.reload()
        page.wait_for_selector("#single:not([hidden])")
        press(page, "r k k")
        wait_until_saved(page, 8)
        server.kill()
        # Nobody notices but for a line that says so; the decisions are kept in the browser.
        press(page, "k r 3 u k r")
        page.get_by_text("6 not saved yet").wait_for()
        assert page.locator("#trouble").is_visible()
        assert len(review_log(version.dir).read()) == 8
        server.start()
        page.click("#retry")
        wait_until_saved(page, 14)
        assert page.locator("#trouble").is_hidden()
        # Once more, and the page is closed before the server comes back.
        server.kill()
        press(page, "k r")
        page.get_by_text("2 not saved yet").wait_for()
        page.goto("about:blank")
        server.start()
        open_review(page, version)
        wait_until_saved(page, 16)
        press(page, "k k r k")
        wait_until_saved(page, 20)
        # Undo goes on across the reload.
        press(page, "z")
        wait_until_saved(page, 19)
        press(page, "k")
        wait_until_saved(page, 20)
    keys = [*"kruk1", *"rkk", *"kr3ukr", *"kr", *"kkrk"]
    meant = {"k": "keep", "u": "unsure"}
    assert verdicts(version) == {
        sample: meant.get(key, "reject") for sample, key in zip(order, keys, strict=False)
    }
    rejected = Counter(verdicts(version).values())["reject"]
    done = anomalysmith("curate", version.dir, "--json")
    assert done.code == 0, done.err
    curated = open_version(next(version.dir.parent.glob("0002-*[0-9a-f]")))
    assert curated.index["parent"] == version.name
    assert curated.index["counts"]["accepted"] == 32 - rejected
    assert anomalysmith("verify", curated.dir).code == 0
    # The version that was reviewed is as it was.
    assert anomalysmith("verify", version.dir).code == 0


@pytest.mark.slow
def test_two_browsers_at_once_lose_nothing(browser: Any, version: Version) -> None:
    with (
        served(store_of(version)) as server,
        visitor(browser, server.address, "Anna") as one,
        visitor(browser, server.address, "Ben") as other,
    ):
        for page in (one, other):
            open_review(page, version)
        for turn in range(16):
            one.keyboard.press("k")
            other.keyboard.press("r" if turn % 4 == 0 else "k")
        for page in (one, other):
            wait_until_saved(page, 16)
        one.goto(address("board", version.name, "progress"))
        text = one.inner_text("main")
        assert "same verdict to 75 % of the 16 samples" in text
        # They go through what they do not agree on.
        one.get_by_role("link", name="review these 4 together").click()
        one.wait_for_selector("#review[data-ready='1']")
        press(one, "r r r r")
        one.get_by_text("That was the last of these samples.").wait_for()
        wait_until_saved(one, 16)
        one.goto(address("board", version.name, "progress"))
        assert "same verdict to 100 % of the 16 samples" in one.inner_text("main")
    assert len(review_log(version.dir).read()) == 16 + 16 + 4


@pytest.mark.slow
def test_several_samples_at_once_by_keyboard_alone(browser: Any, version: Version) -> None:
    order = teaching_order(version)
    with served(store_of(version)) as server, visitor(browser, server.address) as page:
        open_review(page, version)
        press(page, "g")
        page.wait_for_selector("#grid > li")
        # Three in a row, then two single ones.
        press(page, "Shift+ArrowRight Shift+ArrowRight")
        assert page.inner_text("#chosen") == "3 selected"
        press(page, "r")
        press(page, "ArrowRight Space ArrowRight ArrowRight Space")
        assert page.inner_text("#chosen") == "2 selected"
        press(page, "2")
        wait_until_saved(page, 5)
        assert verdicts(version) == dict.fromkeys((*order[:4], order[5]), "reject")
        # One undo takes back what one key did.
        press(page, "z")
        wait_until_saved(page, 3)
        assert set(verdicts(version)) == set(order[:3])
        # The rest of the page, then the next page with a reason in words.
        press(page, "a k")
        wait_until_saved(page, 24)
        press(page, "Enter")
        page.locator("#grid > li").nth(8).wait_for(state="detached")
        press(page, "a 0")
        page.keyboard.type("too dark")
        page.keyboard.press("Enter")
        wait_until_saved(page, 32)
        press(page, "Enter")
        page.get_by_text("That was the last of these samples.").wait_for()
    log = review_log(version.dir).read()
    assert Counter(d.reason for d in log if d.verdict)["too dark"] == 8


@pytest.mark.slow
def test_layers_and_moves_by_key(browser: Any, version: Version) -> None:
    with served(store_of(version)) as server, visitor(browser, server.address) as page:
        open_review(page, version)
        shown = page.locator("#main-image")

        def layer() -> str:
            found = re.search(r"/layer/(\w+)/", shown.get_attribute("src"))
            assert found
            return found[1]

        assert layer() == "edited"
        for key, name in {"d": "difference", "m": "mask", "s": "source", "o": "marked"}.items():
            press(page, key)
            assert layer() == name
        page.keyboard.down("Space")
        assert layer() == "source"
        page.keyboard.up("Space")
        assert layer() == "marked"
        assert page.evaluate("getComputedStyle(document.querySelector('#main-image')).transform")
        press(page, "c")
        assert "scale(" in shown.get_attribute("style")
        # Every image that a key may show has been loaded before.
        first = page.inner_text("#position")
        press(page, "ArrowRight ArrowLeft")
        assert page.inner_text("#position") == first
        page.locator("#main-image").evaluate("image => image.decode()")
    assert review_log(version.dir).read() == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"viewport": {"width": 1440, "height": 900}}, {"color_scheme": "dark"}, PHONE],
    ids=["light", "dark", "phone"],
)
def test_every_page_is_accessible_and_fits(
    browser: Any, version: Version, options: dict[str, Any]
) -> None:
    home = address("board", version.name)
    pages = ["/", home, f"{home}/sample/0", f"{home}/about", f"{home}/diff", f"{home}/review",
             f"{home}/progress", "/rules/board", "/reports", "/nowhere"]  # fmt: skip
    write_book(version)
    runs = write_report(version)
    with (
        served(store_of(version), "--runs", str(runs)) as server,
        visitor(browser, server.address, **options) as page,
    ):
        open_review(page, version)
        # So that progress has something to show.
        press(page, "k r u 1 k")
        wait_until_saved(page, 5)
        for path in pages:
            page.goto(path)
            if path.endswith("review"):
                page.wait_for_selector("#single:not([hidden])")
            check(page)
        page.goto("/reports")
        page.click("main a[href^='/reports/']")
        page.wait_for_selector("iframe")
        check(page)
        open_review(page, version)
        press(page, "g")
        page.wait_for_selector("#grid > li")
        check(page)
        press(page, "?")
        check(page)
        dark = options.get("color_scheme") == "dark"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", ground))) < 60) == dark


def write_report(version: Version) -> Path:
    """A folder of runs with the report of one detector."""
    folder = store_of(version).parent / "runs" / "nearest"
    folder.mkdir(parents=True)
    text = (
        "<!doctype html><html lang='en'><title>nearest</title><main><h1>nearest</h1></main></html>"
    )
    (folder / "report.html").write_text(text)
    (folder / "report.json").write_text('{"detector": "nearest", "category": "board"}')
    return folder.parent


def write_book(version: Version) -> Path:
    """A rule book of the boards, where the server looks for it."""
    images = [image for image, _ in version.images("train")]
    found = [toy.ToyFinder()(image) for image in images]
    path = store_of(version).parent / "board.rules.yaml"
    write_draft(draft(found, "board"), path, found, images.__getitem__)
    return path


@pytest.mark.slow
def test_a_part_gets_its_name_by_eye(browser: Any, version: Version) -> None:
    path = write_book(version)
    with served(store_of(version)) as server, visitor(browser, server.address) as page:
        page.goto(address("board", version.name))
        page.get_by_role("link", name="Rules").click()
        part = page.locator(".part-form[data-part=part_1]")
        part.get_by_label("Name").fill("disc")
        part.get_by_label("How many").fill("2-3")
        part.get_by_label("Where").select_option("inside a box")
        for side, number in {"left": -0.5, "top": -0.6, "right": 0, "bottom": 0.6}.items():
            part.get_by_label(side).fill(str(number))
        part.get_by_role("button", name="Apply").click()
        page.locator(".part-form[data-part=disc]").wait_for()
        # Not before somebody has seen the changed lines.
        assert "part_1" in path.read_text()
        assert "+    count: [2, 3]" in page.inner_text(".diff")
        page.get_by_role("button", name="Save the rules").click()
        page.get_by_text("holds these rules").wait_for()
    parts = load(path).book.parts
    assert list(parts) == ["disc", "part_2"]
    assert parts["disc"].count == (2, 3)
    assert parts["disc"].place.box == (-0.5, -0.6, 0.0, 0.6)  # type: ignore[union-attr]


def check(page: Any) -> None:
    """No serious fault, and nothing beside the window."""
    assert serious_faults(page) == []
    wide, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide <= window, page.url


@pytest.mark.slow
def test_reviewing_with_a_thumb(browser: Any, version: Version) -> None:
    with (
        served(store_of(version)) as server,
        visitor(browser, server.address, **PHONE) as page,
    ):
        open_review(page, version)
        for verdict in ("keep", "reject", "unsure"):
            button = page.locator(f"#single .verdict.{verdict}")
            # In sight without scrolling.
            assert button.bounding_box()["y"] + button.bounding_box()["height"] <= 720
            button.tap()
        page.locator('#single [data-reason="impossible"]').tap()
        wait_until_saved(page, 4)
    assert list(verdicts(version).values()) == ["keep", "reject", "unsure", "reject"]
