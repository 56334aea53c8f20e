"""The clients' side of the road: ASGI in, ASGI out.

One application for every path: which resources there are is the road's affair, not a router's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import VARY, VARY_WITH_CORS, Fields, Own, join, read, request_id
from gateway.core.paths import PREFIX
from gateway.core.peers import Network, peer_and_visitor
from gateway.core.replies import Reply
from gateway.core.requests import Request


class Road(Protocol):
    """Where requests are answered. What the edge refuses itself goes there too, to be counted."""

    async def answer(self, request: Request) -> Reply: ...
    def refuse(self, request: Request, refusal: Refusal) -> Reply: ...


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins' scripts may use the gateway; none, unless configured."""

    origins: frozenset[bytes]
    max_age_s: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the edge needs to know; asked for at each request.

    `prefix` is the path of the public URL: clients may send it or not. `trusted_proxies` are those whose
    X-Forwarded-For is believed.
    """

    prefix: bytes
    cors: Cors
    max_body_bytes: int
    trusted_proxies: Sequence[Network] = ()


class Web:
    """The public ASGI application. `new_id` makes request ids; `wall` is epoch seconds."""

    def __init__(
        self,
        road: Road,
        config: Callable[[], WebConfig],
        new_id: Callable[[], str],
        wall: Callable[[], float],
    ) -> None:
        self._road = road
        self._config = config
        self._new_id = new_id
        self._wall = wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        fields = read(scope["headers"])
        if not isinstance(fields, Refusal) and b"host" not in fields and scope["http_version"] == "1.1":
            fields = Refusal(Reason.MALFORMED_HEADER)  # RFC 9112 §3.2
        request = self._request(scope, receive, {} if isinstance(fields, Refusal) else fields)
        if isinstance(fields, Refusal):
            await _write(send, self._road.refuse(request, fields))
        elif (preflight := self._preflight(request)) is not None:
            await _write(send, preflight)
        else:
            # Whoever has hung up by now is written to in vain, and that is all.
            await _write(send, await self._answer(request))

    async def _answer(self, request: Request) -> Reply:
        try:
            return await self._road.answer(request)
        except asyncio.CancelledError:
            # The server cancels what has outlasted the end of the process, such as a body that never comes.
            return self._road.refuse(request, Refusal(Reason.DRAINING))

    def refuse(self) -> bytes:
        """The answer to bytes that are no request, complete with its head."""

        async def body() -> bytes | Refusal:
            return b""

        request = Request(self._new_id(), "-", b"", b"", {}, body)
        made = self._road.refuse(request, Refusal(Reason.MALFORMED_REQUEST))
        fields = (*made.headers, (b"connection", b"close"))
        head = b"".join(b"%s: %s\r\n" % pair for pair in fields)
        return b"HTTP/1.1 400 Bad Request\r\n%s\r\n%s" % (head, made.body)

    def _request(self, scope: Scope, receive: Receive, fields: Fields) -> Request:
        config = self._config()

        async def body() -> bytes | Refusal:
            return await _read_body(receive, config.max_body_bytes)

        origin = fields.get(b"origin")
        # Over a socket of the file system there is no address.
        socket_peer: str = (scope.get("client") or ("",))[0]
        peer, visitor = peer_and_visitor(socket_peer, fields.get(b"x-forwarded-for"), config.trusted_proxies)
        return Request(
            request_id(fields, self._new_id()),
            scope["method"],
            below(config.prefix, scope["raw_path"]),
            scope["query_string"],
            fields,
            body,
            origin if origin in config.cors.origins else None,
            VARY_WITH_CORS if config.cors.origins else VARY,
            peer,
            visitor,
        )

    def _preflight(self, request: Request) -> Reply | None:
        """The answer to a CORS preflight from a configured origin; nobody else is answered here."""
        if request.method != "OPTIONS" or request.origin is None:
            return None
        if b"access-control-request-method" not in request.fields:
            return None
        head = (
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", str(self._config().cors.max_age_s).encode()),
        )
        own = Own(request.id, self._wall(), request.vary, origin=request.origin)
        return Reply(204, join(head, own), b"")


def below(prefix: bytes, path: bytes) -> bytes:
    """A path as the road knows it, whether or not it came with the path of the public URL."""
    return path[len(prefix) :] if prefix and path.startswith(prefix + PREFIX.encode()) else path


_ALLOWED_HEADERS = b"Accept, Authorization, Content-Type, If-None-Match, X-HTTP-Method-Override, X-Request-ID"


async def _read_body(receive: Receive, max_bytes: int) -> bytes | Refusal:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return Refusal(Reason.CLIENT_GONE)
        body += message.get("body", b"")
        if len(body) > max_bytes:
            return Refusal(Reason.BODY_TOO_LARGE)
        if not message.get("more_body", False):
            return bytes(body)


async def _write(send: Send, made: Reply) -> None:
    start: Message = {"type": "http.response.start", "status": made.status, "headers": list(made.headers)}
    await send(start)
    await send({"type": "http.response.body", "body": made.body})
