"""The private listener: health, metrics, usage, the live page, and what may be changed meanwhile.

It stands on a network of its own, and is built as if it did not: a browser there can be made to send
requests by any page. So names it does not know are refused (DNS rebinding), changes take a content type and
an origin that foreign pages cannot send, and all but probes takes a token, also on loopback. The words are
fixed: nothing that a caller said is repeated.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.resources import files
from typing import Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.core.documents import Broken, well_formed
from gateway.core.messages import Representation

MAX_BODY_BYTES = 65_536

#: A status, and what JSON can say.
Outcome = tuple[int, object]
Said = Mapping[str, object]
Answer = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Access:
    """Who gets in. `token` is what must follow "Bearer "; without one nobody does.

    `hosts` are the names, in small letters, that a request may come by besides IP addresses and localhost.
    """

    token: bytes | None = field(repr=False)
    open_metrics: bool
    hosts: frozenset[str]


class Reader(Protocol):
    """Who is told how it stands, again and again, as `text/event-stream`; it leaves in the end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    def leave(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Handles:
    """What the listener shows and what it sets in motion. `access` is asked at each request.

    `live` is None where one more reader is too many.
    """

    access: Callable[[], Access]
    is_ready: Callable[[], bool]
    status: Callable[[], Mapping[str, object]]
    exposition: Callable[[], Awaitable[bytes]]
    usage: Callable[[], object]
    revocations: Callable[[], object]
    revoke: Callable[[Said], Awaitable[Outcome]]
    reload: Callable[[], Awaitable[Outcome]]
    purge: Callable[[Said], Awaitable[Outcome]]
    explain: Callable[[Said], Awaitable[Outcome]]
    live: Callable[[], Reader | None]


def admin(handles: Handles) -> Starlette:
    """Its application. Ready does not depend on the upstream: another replica would find it just as sick."""
    guarded = partial(_guarded, handles.access)

    async def healthz(_: Request) -> Response:
        return _text(b"alive\n")

    async def readyz(request: Request) -> Response:
        ready = handles.is_ready()
        if "verbose" not in request.query_params:
            return _json(200 if ready else 503, {"ready": ready})
        _check(request, handles.access())
        return _json(200 if ready else 503, {**handles.status(), "ready": ready})

    async def metrics(request: Request) -> Response:
        access = handles.access()
        # Nobody's page is to read who uses this gateway, token or not.
        _check_host(request, access)
        if not access.open_metrics:
            _check(request, access)
        return _text(await handles.exposition(), "text/plain; version=0.0.4; charset=utf-8")

    async def usage(_: Request) -> Response:
        return _json(200, handles.usage())

    async def revocations(request: Request) -> Response:
        if request.method == "POST":
            return _json(*await handles.revoke(await _said(request)))
        return _json(200, handles.revocations())

    async def reload(request: Request) -> Response:
        if await _said(request):
            raise HTTPException(400, "There is nothing to say here: send an empty object, {}.")
        return _json(*await handles.reload())

    app = Starlette(
        routes=[
            *_pages(handles.access),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            guarded("/usage", usage, "GET"),
            guarded("/revocations", revocations, "GET", "POST"),
            guarded("/reload", reload, "POST"),
            guarded("/purge", partial(_asked, handles.purge), "POST"),
            guarded("/explain", partial(_asked, handles.explain), "POST"),
            guarded("/live", partial(_live, handles.live), "GET"),
        ],
        exception_handlers={HTTPException: _refused, ClientDisconnect: _gone, Exception: _crashed},
    )
    # It would redirect to whatever Host says.
    app.router.redirect_slashes = False
    return app


async def _asked(do: Callable[[Said], Awaitable[Outcome]], request: Request) -> Response:
    return _json(*await do(await _said(request)))


def _guarded(access: Callable[[], Access], path: str, answer: Answer, *methods: str) -> Route:
    async def endpoint(request: Request) -> Response:
        _check(request, access())
        return await answer(request)

    return Route(path, endpoint, methods=methods)


def _pages(access: Callable[[], Access]) -> list[Route]:
    """The files of the page: anybody's whose Host is right, for there is nothing in them."""
    return [
        Route(path, partial(_file, access, _content(name), media_type)) for path, name, media_type in _PAGE
    ]


def _content(name: str) -> bytes:
    return (files("gateway.admin") / "page" / name).read_bytes()


async def _file(access: Callable[[], Access], body: bytes, media_type: str, request: Request) -> Response:
    _check_host(request, access())
    return Response(body, 200, {**_HEADERS, **_PAGE_HEADERS}, media_type)


_PAGE = (
    ("/", "index.html", "text/html; charset=utf-8"),
    ("/page.css", "page.css", "text/css; charset=utf-8"),
    ("/page.js", "page.js", "text/javascript; charset=utf-8"),
)
_PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
}


async def _live(live: Callable[[], Reader | None], request: Request) -> Response:
    if request.method == "HEAD":
        return Response(None, 200, _HEADERS, "text/event-stream")
    reader = live()
    if reader is None:
        raise HTTPException(503, "There are readers enough, or the gateway ends.", {"retry-after": "5"})
    return _Live(reader)


class _Live(StreamingResponse):
    """A reply for as long as its reader reads."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader, 200, _HEADERS, "text/event-stream")
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._reader.leave()


def _check(request: Request, access: Access) -> None:
    """A name that is ours, a token, and for changes what no foreign page can send. Raises HTTPException."""
    _check_host(request, access)
    _check_token(request, access)
    if request.method == "POST":
        _check_origin(request, access)
        _check_content_type(request)


def _check_host(request: Request, access: Access) -> None:
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _is_ours(hosts[0], access):
        raise HTTPException(
            421, "Host must be an IP address, localhost or one of admin.hosts, with or without a port."
        )


def _is_ours(host: str, access: Access) -> bool:
    name = _name(host)
    return name == "localhost" or name in access.hosts or _is_address(name)


def _name(host: str) -> str:
    """A Host's name, in small letters, or the address without its brackets; empty for what is neither."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower() if found else ""


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _check_token(request: Request, access: Access) -> None:
    if not access.token:
        raise HTTPException(403, "This call takes a token, and none is configured: set admin.token_file.")
    said = [value for name, value in request.scope["headers"] if name == b"authorization"]
    scheme, _, token = said[0].partition(b" ") if len(said) == 1 else (b"", b"", b"")
    # Digests, so that not even the length can be measured.
    is_ours = hmac.compare_digest(hashlib.sha256(token).digest(), hashlib.sha256(access.token).digest())
    if scheme.lower() != b"bearer" or not is_ours:
        raise HTTPException(
            401, "Send Authorization: Bearer and this listener's token.", {"www-authenticate": _CHALLENGE}
        )


_CHALLENGE = 'Bearer realm="chat-gateway admin"'


def _check_origin(request: Request, access: Access) -> None:
    """Browsers say which page makes them send this. A page at an address is no better for it."""
    for origin in request.headers.getlist("origin"):
        authority = origin.partition("://")[2]
        if authority != request.headers["host"] and _name(authority) not in access.hosts:
            raise HTTPException(403, "Pages of this origin may change nothing here.")


def _check_content_type(request: Request) -> None:
    # A form cannot say this, and a script only after a preflight, which is refused.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "Content-Type must be application/json.")


async def _said(request: Request) -> Said:
    """The body: one JSON object. Raises HTTPException."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            # What is left of it is not read.
            raise HTTPException(413, f"The body may have {MAX_BODY_BYTES} bytes.", {"connection": "close"})
    try:
        well_formed(bytes(body), Representation.JSON)
        said = json.loads(body, parse_float=_finite)
    # Digits without end are well-formed, and no number.
    except (Broken, ValueError):
        said = None
    if not isinstance(said, dict):
        raise HTTPException(400, "The body must be one JSON object, with each name once, in UTF-8.")
    return said


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError
    return number


def _text(body: bytes, media_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(body, 200, _HEADERS, media_type)


def _json(status: int, said: object, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII, so that what a caller said, a lone surrogate too, can be told escaped.
    body = json.dumps(said, allow_nan=False).encode() + b"\n"
    return Response(body, status, {**_HEADERS, **(headers or {})}, "application/json")


_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - that is what it is registered for
    sentence = _SENTENCES.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    if "Allow" in headers:
        # A set until now: in another order each time.
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    return _json(error.status_code, {"error": sentence}, headers)


_SENTENCES = {404: "There is no such call.", 405: "This call does not take this method; see Allow."}


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this: the caller hung up within its body."""
    return _json(400, {"error": "The body ended too soon."})


async def _crashed(_: Request, __: Exception) -> Response:
    return _json(500, {"error": "This failed inside the gateway; its log says where."})
