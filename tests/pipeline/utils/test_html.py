"""Pages and cards: names from outside are text wherever they are shown."""

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from small_results import header, image_result, small_version

from pipeline.dataset.index_schema import is_plain_name
from pipeline.dataset.version import open_version
from pipeline.reports.card import render_card
from pipeline.reports.diff.compare import diff
from pipeline.reports.diff.page import write_page
from pipeline.reports.gallery import render
from pipeline.sources.licences import terms_of
from pipeline.utils.html import escape_markdown
from pipeline.utils.names import visible

EVIL = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "</style><b>",
    "a|b|c",
    "![x](http://a.example/x.png)",
    "[x](javascript:alert(1))",
    "`code`",
    "one\ntwo\r\n# three",
    "abc\u202egnp.exe",
    "zero\u200bwidth",
    "{{ 7 * 7 }}{% raw %}",
    "quote\"'&amp;",
)
ACTIVE_TAGS = ("script", "iframe", "object", "embed", "img", "link", "base", "form")


class Elements(HTMLParser):
    """Collects the elements of a page and all attributes that could execute something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        links = [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.handlers += [link for link in links if not link.startswith("#")]

    def handle_data(self, data):
        self.text += data


def elements(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    return found


def dangerous(found: Elements) -> list[str]:
    return [tag for tag in found.tags if tag in ACTIVE_TAGS] + found.handlers


def version_named(store, evil: str, **options):
    """A version in which every text from outside is hostile."""
    head = header(
        licence=evil,
        settings={"edits": {evil: evil}},
        failures=[{"name": evil, "error": evil}],
        weights={evil: evil},
    )
    results = [image_result(n, name=f"{evil}{n}") for n in range(2)]
    return small_version(store, results=results, tests=0, head=head, **options)


@pytest.mark.parametrize("evil", EVIL)
def test_the_gallery_shows_hostile_names_as_text(tmp_path, evil):
    plain = elements(render(version_named(tmp_path / "plain", "name"), 4))
    page = render(version_named(tmp_path / "evil", evil), 4)
    found = elements(page)
    assert found.tags == plain.tags
    assert dangerous(found) == dangerous(plain)
    assert visible(evil + "0") in found.text
    assert not re.search("[\u200b\u202e]", page)


def test_the_page_of_a_diff_shows_hostile_names_as_text(tmp_path):
    evil = "".join(EVIL)
    one = version_named(tmp_path / "one", evil)
    other = small_version(
        tmp_path / "other", results=[image_result(0, name=f"{evil}0")], tests=0,
        head=header(licence="other"),
    )  # fmt: skip
    page = write_page(diff(one, open_version(other.dir)), tmp_path / "diff.html").read_text()
    found = elements(page)
    assert dangerous(found) == []
    assert visible(evil) in found.text
    assert not re.search("[\u200b\u202e]", page)


@pytest.mark.parametrize("evil", EVIL)
def test_the_card_shows_hostile_names_as_text(tmp_path, evil):
    index = version_named(tmp_path, evil).index
    plain = dict(index) | {"licence": "name"}
    text = render_card(index)
    assert text.count("\n") == render_card(plain).count("\n")
    assert not re.search(r"(?<!\\)\]\((http://a|javascript)", text)
    assert "<script" not in text
    assert "<img" not in text


def test_a_licence_similar_to_a_known_one_gets_no_link():
    terms = terms_of({"licence": "MIT (](http://a.example) [x)", "settings": {}})
    assert "](http://a.example)" not in terms.sentences().replace("\\]", "")


@given(st.text())
def test_escaped_markdown_is_one_line_without_markup(text):
    shown = escape_markdown(text)
    assert shown.isprintable()
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|\[\]`*~]", shown)
    assert not re.search(r"(?i)www\.|://|@", shown)
    (line,) = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parseInline(shown)
    assert {token.type for token in line.children} <= {"text"}
    assert "".join(token.content for token in line.children) == " ".join(visible(text).split())


@pytest.mark.parametrize("text", ["wrong_type", "hazelnut_reduced", "part 7 (left), 3.5", "a.b-c"])
def test_usual_names_are_not_changed_by_escaping(text):
    assert escape_markdown(text) == text


@pytest.mark.parametrize("text", ["a *b* c", "_b_", "~~b~~", "x__y__z", "https://a.b", "a@b.c"])
def test_escaped_markdown_has_no_emphasis_and_no_link(text):
    (line,) = MarkdownIt("commonmark").enable("strikethrough").parseInline(escape_markdown(text))
    assert [(token.type, token.content) for token in line.children] == [("text", text)]
    assert "://" not in escape_markdown(text)
    assert "@" not in escape_markdown(text)


@pytest.mark.parametrize("name", ["", " ", "\u3164", "\u3164 \u115f", "\u2800", ".x", "a\u200b"])
def test_invisible_names_of_folders_are_rejected(name):
    assert not is_plain_name(name)
    assert is_plain_name("tray \u3164 1")


@given(st.text())
def test_invisible_characters_are_written_out(text):
    shown = visible(text)
    assert shown.isprintable()
    if text.isprintable():
        assert shown == text
