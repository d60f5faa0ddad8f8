"""Who may ask for what: hosts, origins, the token, read-only, the size of a request."""

import re

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from small_sites import SECRET, Outline, ask

from flows.serve.safety import MOST_BODY, Access, Safety, cookie_name, is_loopback, names_of

ORIGIN = {"origin": "http://127.0.0.1:8765", "content-type": "application/json"}
TOKEN = "a-token-of-some-length"


def small(access: Access) -> FastAPI:
    """An application that only writes down what reaches it."""
    app = FastAPI()

    @app.api_route("/{rest:path}", methods=["GET", "POST", "PUT", "DELETE"])
    def here(rest: str) -> JSONResponse:
        return JSONResponse({"reached": rest})

    app.add_middleware(Safety, access=access)
    return app


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8765", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8765", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("localhost:80@evil.example", 421),
        ("127.0.0.1:x", 421),
        ("[::1", 421),
        ("192.168.1.5", 421),
        ("", 421),
    ],
)
def test_only_names_of_this_server_are_answered(host, status):
    """Otherwise a foreign domain that is made to point here could read everything."""
    assert ask(small(Access()), "/", headers={"host": host}).status == status


def test_a_server_for_every_address_takes_addresses_and_its_own_name(app):
    access = Access(hosts=names_of("0.0.0.0", ["Bench7"]), any_address=True)
    found = {
        host: ask(small(access), "/", headers={"host": host}).status
        for host in ("192.168.1.5:8765", "[fe80::1]", "bench7", "evil.example")
    }
    assert found == {"192.168.1.5:8765": 200, "[fe80::1]": 200, "bench7": 200, "evil.example": 421}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "null"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8765"},
        {"origin": "http://127.0.0.1:8765", "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_sites_cannot_write(headers, method):
    kind = {"content-type": "application/json"}
    assert ask(small(Access()), "/x", method, kind | headers, b"{}").status == 403


def test_pages_of_this_server_can_write():
    own = ORIGIN | {"sec-fetch-site": "same-origin"}
    assert ask(small(Access()), "/x", "POST", own, b"{}").status == 200
    assert ask(small(Access()), "/x", "POST", ORIGIN, b"{}").status == 200


def test_a_form_of_another_site_has_no_json():
    forms = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "")
    sent = (ask(small(Access()), "/x", "POST", ORIGIN | {"content-type": f}, b"") for f in forms)
    assert [answer.status for answer in sent] == [415] * 4


def test_a_read_only_server_accepts_nothing():
    app = small(Access(read_only=True))
    assert ask(app, "/x", "POST", ORIGIN, b"{}").status == 403
    assert ask(app, "/x").status == 200


def test_a_request_may_be_a_megabyte():
    app = small(Access())
    assert ask(app, "/x", "POST", ORIGIN, b" " * MOST_BODY).status == 200
    assert ask(app, "/x", "POST", ORIGIN, b" " * (MOST_BODY + 1)).status == 413


def test_without_the_token_nothing_is_said():
    app = small(Access(token=TOKEN))
    for headers in ({}, {"cookie": f"{cookie_name(TOKEN)}=wrong"}, {"cookie": "\xff=\xff; ="}):
        assert ask(app, "/x?token=wrong", headers=headers).status == 401
    assert ask(app, "/x", "POST", ORIGIN, b"{}").status == 401


def test_the_token_goes_from_the_address_into_a_cookie():
    app = small(Access(token=TOKEN))
    first = ask(app, f"/v/a%20b?sort=x&token={TOKEN}&kind=y")
    assert (first.status, first.headers["location"]) == (303, "/v/a%20b?sort=x&kind=y")
    cookie = first.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    again = ask(app, "/v/a", headers={"cookie": cookie.partition(";")[0]})
    assert again.status == 200


@pytest.mark.parametrize("target", ["//evil.example/x", "/\\evil.example", "///evil.example"])
def test_the_way_to_the_cookie_leads_to_no_other_server(target):
    away = ask(small(Access(token=TOKEN)), f"{target}?token={TOKEN}").headers["location"]
    assert away.startswith("/")
    assert not re.match(r"/[/\\]", away)


def test_loopback_is_what_only_this_machine_reaches():
    assert [is_loopback(h) for h in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(h) for h in ("0.0.0.0", "::", "10.0.0.1", "example.org")] == [False] * 4


def pages_of(home: str) -> list[str]:
    tails = ("", "?score=delta_e&sort=-area&range=area:0:1", "/about", "/sample/0", "/diff")
    return ["/", "/reports", "/nowhere", *(home + tail for tail in tails)]


def test_no_page_has_a_script_or_style_of_its_own(client, home):
    """So the policy can forbid them, and a name that gets through does nothing."""
    for path in pages_of(home):
        answer = client.get(path)
        page = Outline(answer.text)
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert all("src" in attrs for tag, attrs in page.tags if tag == "script")
        assert not [tag for tag, _ in page.tags if tag == "style"]
        names = {name for _, attrs in page.tags for name in attrs}
        assert not [name for name in names if name == "style" or name.startswith("on")]


def test_everything_a_page_loads_is_here(client, home):
    for path in pages_of(home):
        page = Outline(client.get(path).text)
        sources = [*page.all("img", "src"), *page.all("script", "src"), *page.all("link", "href")]
        assert all(source.startswith("/") and source[1] != "/" for source in sources)
        # And it is there.
        assert {client.get(source).status_code for source in set(sources)} <= {200}


def test_a_report_has_no_origin(client):
    """Its scripts may run, and can neither read nor send anything."""
    frames = [Outline(client.get(link).text).all("iframe", "src")[0] for link in reports(client)]
    for frame in frames:
        policy = client.get(frame).headers["content-security-policy"]
        assert "sandbox allow-scripts;" in policy
        assert "allow-same-origin" not in policy
        assert "default-src 'none'" in policy
    # Their content is sent as it is; the link out of the folder is not among them.
    texts = [client.get(frame).text for frame in frames]
    assert sorted(texts) == ["<script>alert(1)</script>the report", "the comparison"]
    assert SECRET not in "".join(texts)


def reports(client) -> list[str]:
    links = Outline(client.get("/reports").text).all("a", "href")
    return [link for link in links if link.startswith("/reports/")]
