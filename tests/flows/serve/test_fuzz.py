"""Whatever is asked for: no server error, nothing from outside the store, every name escaped."""

from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_sites import NASTY, SECRET, Outline, ask

SETTINGS = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
WORDS = [
    "v", "tray", "linked", ".hidden", "outside", "secret.txt", "reports", "static", "style.css",
    "sample", "layer", "thumb", "marked", "source", "diff", "about", "review", "progress", "rules",
    "0", "1", "-1", "99999999999999999999", "0001", "page", quote(NASTY), "<script>alert(1)",
    "..", "%2e%2e", "%2E%2e%2f", "..%2f..%2foutside%2fsecret.txt", "%252e%252e", "%5c..%5c", "%00",
    "~", "C:", "%ff%fe", "%u002e", "☃", "\u202e", "a" * 300, "",
]  # fmt: skip
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="?#"), max_size=12)
NAMES = ["kind", "verdict", "reason", "rule", "split", "image", "range", "sort", "score", "from",
         "to", "of", "page", "size", "view", "layer", "other", "id", "token"]  # fmt: skip
VALUES = [
    "missing", "accepted", "delta_e", "-delta_e", "delta_e:0:1", "delta_e:nan:inf", "area::", ":::",
    "-1", "0", "1e999", "99999999999", "٣", "../../outside", "<script>alert(1)</script>", "%00",
    "%ff", "x" * 500, "",
]  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(["accept", "cookie", "origin", "range", "if-none-match", "x-forwarded-host",
                     "content-type", "if-modified-since", "content-length"]),
    st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]), max_size=30),
    max_size=3,
)  # fmt: skip


def stamps(store: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of the store."""
    stats = {str(path): path.stat() for path in store.rglob("*") if path.is_file()}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.fixture(scope="module")
def words(site) -> list[str]:
    return [*WORDS, *site.versions]


def assert_harmless(answer) -> None:
    assert answer.status < 500, answer.text[:500]
    assert SECRET not in answer.text
    assert "content-security-policy" in answer.headers
    if answer.headers.get("content-type", "").startswith("text/html"):
        scripts = [attrs for tag, attrs in Outline(answer.text).tags if tag == "script"]
        assert all((attrs.get("src") or "").startswith("/static/") for attrs in scripts)


@SETTINGS
@given(data=st.data(), headers=HEADERS)
def test_any_path_is_answered_harmlessly(app, words, data, headers):
    pieces = data.draw(st.lists(st.sampled_from(words) | TEXT, max_size=7))
    assert_harmless(ask(app, ("/" + "/".join(pieces)).encode(), headers=headers))


@SETTINGS
@given(data=st.data())
def test_any_query_is_answered_harmlessly(app, site, data):
    tails = ["", "/about", "/sample/0", "/sample", "/diff", "/thumb/edited/1", "/review", "/rules"]
    path = f"/v/tray/{data.draw(st.sampled_from(site.versions))}{data.draw(st.sampled_from(tails))}"
    pair = st.tuples(st.sampled_from(NAMES) | TEXT, st.sampled_from(VALUES) | TEXT)
    pairs = data.draw(st.lists(pair, max_size=6))
    query = "&".join(f"{name}={value}" for name, value in pairs)
    assert_harmless(ask(app, f"{path}?{query}".encode()))


@SETTINGS
@given(data=st.data(), body=st.binary(max_size=60), headers=HEADERS)
def test_no_request_to_write_changes_a_version(app, site, words, data, body, headers):
    before = stamps(site.store)
    own = {"origin": "http://127.0.0.1:8765", "content-type": "application/json"}
    pieces = data.draw(st.lists(st.sampled_from(words), max_size=5))
    method = data.draw(st.sampled_from(["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "?"]))
    answer = ask(app, ("/" + "/".join(pieces)).encode(), method, headers | own, body)
    assert answer.status < 500
    after = stamps(site.store)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd",
        "/static/%00", "/static/" + 300 * "a", "/v/%00/%00", "/reports/%00",
        "/v/%2e%2e/outside", "/v/..%2foutside%2fother/0001-000000000000", "/v/linked/{name}",
        "/v/tray/..", "/v/tray/%2e%2e%2f%2e%2e", "/v/.hidden/{name}", "/v/tray/{name}%2findex.json",
        "/v/tray/{name}/thumb/marked/..", "/v/tray/{name}/layer/..%2f/0",
        "/reports/..%2f..%2foutside%2fsecret.txt", "/reports/secret.txt/page",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_store(app, site, path):
    answer = ask(app, path.format(name=site.versions[0]))
    assert answer.status in (404, 405)
    assert SECRET not in answer.text
