"""What every request must pass before a page sees it, and the headers of every answer.

A page of another site that is open in the same browser can send requests to this machine too, so
being on loopback is no protection of its own:

    Host                 a name that this server has, else 421: no foreign domain that is made to
                         point here (DNS rebinding)
    token                where one is set, in a cookie that `?token=` leaves, else 401
    Origin               of every request that writes: this server itself, else 403
    read-only            nothing writes, 403
    body                 at most `MOST_BODY` bytes, else 413, and JSON
"""

import hashlib
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Bytes of a request. Decisions on a few hundred samples or a rule book are far smaller.
MOST_BODY = 1 << 20
# Methods that change nothing.
READS = ("GET", "HEAD")
# Scripts, styles and pictures from this server only; nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'self'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "SAMEORIGIN",
    # A page shows decisions of this moment; answers that never change say so themselves.
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may ask for what. `hosts` are the names of this server; `token` None asks for none."""

    hosts: tuple[str, ...] = LOOPBACK
    token: str | None = None
    read_only: bool = False
    # Bound to every address of the machine: any IP address in `Host` may be one of its own. Only
    # names can be made to point elsewhere.
    any_address: bool = False

    def knows(self, host: str) -> bool:
        """True for a `Host` header that names this server, with or without a port."""
        name, port = _split(host)
        if port and not (port.isascii() and port.isdecimal()):
            return False
        return name in self.hosts or (self.any_address and _is_address(name))


class Safety:
    """The middleware that does all of it, around the whole application."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The start and the end of the server. There are no WebSockets here.
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return None
        with_headers = _adding_headers(send)
        refused = self._refusal(scope, Headers(scope=scope))
        if refused is None and scope["method"] not in READS:
            # Read here, so that no page can be made to hold more.
            body = await _body(receive)
            if body is None:
                refused = _no(413, f"a request may have {MOST_BODY:,} bytes")
            else:
                receive = _replay(body)
        return await (refused or self.app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that must not pass."""
        access, host = self.access, headers.get("host", "")
        if not access.knows(host):
            return _no(421, "this server does not have the name in the address; see its --host")
        if access.token is not None and (refused := self._without_token(scope, headers)):
            return refused
        if scope["method"] in READS:
            return None
        if not _same_origin(headers, f"{scope['scheme']}://{host}"):
            return _no(403, "only pages of this server may change anything")
        if access.read_only:
            return _no(403, "this server is read-only")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        return None if kind == "application/json" else _no(415, "expected application/json")

    def _without_token(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request without the token; a redirect when the address has it."""
        token = self.access.token or ""
        cookie = cookie_name(token)
        if _equal(cookie_parser(headers.get("cookie", "")).get(cookie, ""), token):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if not any(name == "token" and _equal(value, token) for name, value in query):
            return _no(401, "open the address with its ?token=, as the server printed it")
        # Out of the address bar and the history, into a cookie that no script can read.
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        # One slash: `//name` would be the address of another server.
        path = "/" + quote(scope["path"].lstrip("/\\"))
        away = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        away.set_cookie(cookie, token, httponly=True, samesite="strict", path="/")
        return away


def cookie_name(token: str) -> str:
    """Its own for every token: cookies do not distinguish the ports of a machine."""
    return f"anomalysmith-{hashlib.sha256(token.encode()).hexdigest()[:12]}"


def is_loopback(host: str) -> bool:
    """True for a host that only this machine can reach."""
    try:
        return host in LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def names_of(host: str, machine: Iterable[str] = ()) -> tuple[str, ...]:
    """The names under which a server bound to `host` is asked; `machine` are those of the host."""
    return tuple(dict.fromkeys([*LOOPBACK, host.lower(), *(name.lower() for name in machine)]))


def _split(host: str) -> tuple[str, str]:
    """Name and port of a `Host` header; an IPv6 address comes without its brackets."""
    if host.startswith("["):
        name, closed, port = host[1:].partition("]")
        return (name.lower() if closed else ""), port.removeprefix(":")
    name, _, port = host.partition(":")
    return name.lower(), port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _same_origin(headers: Headers, own: str) -> bool:
    """True when a page of this server sent the request.

    Browsers state the origin of every request that writes. A program that is no browser may state
    it as well; without it, it is refused.
    """
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    return headers.get("origin", "").lower() == own.lower()


def _equal(given: str, wanted: str) -> bool:
    """Compared in constant time, so that no clock tells how much of it is right."""
    return secrets.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"{why}\n", status)


def _adding_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                # A page may be stricter or, as a picture, longer-lived.
                headers.setdefault(name, value)
        await send(message)

    return with_headers


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None as soon as it is too long."""
    body, more = b"", True
    while more:
        message: dict[str, Any] = dict(await receive())
        # The client is gone.
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BODY:
            return None
    return body


def _replay(body: bytes) -> Receive:
    """The body again, for the application."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else {"type": "http.disconnect"}

    return receive
