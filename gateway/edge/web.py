"""The clients' side of the road: ASGI in, ASGI out.

One application for every path: which resources there are is the road's affair, not a router's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.types import Message, Receive, Scope, Send

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import Fields, Own, join, read, request_id
from gateway.core.messages import Representation
from gateway.core.replies import Reply, Trip, reply
from gateway.core.requests import Request


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins' scripts may use the gateway; none, unless configured."""

    origins: frozenset[bytes]
    max_age_s: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the edge needs to know. `prefix` is the path of the public URL: clients may send it or not."""

    prefix: bytes
    cors: Cors
    max_body_bytes: int
    default_representation: Representation


class Web:
    """The public ASGI application. `new_id` makes request ids; `wall` is epoch seconds."""

    def __init__(
        self,
        answer: Callable[[Request], Awaitable[Reply]],
        config: WebConfig,
        new_id: Callable[[], str],
        wall: Callable[[], float],
    ) -> None:
        self._answer = answer
        self._config = config
        self._new_id = new_id
        self._wall = wall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        fields = read(scope["headers"])
        request = self._request(scope, receive, {} if isinstance(fields, Refusal) else fields)
        if isinstance(fields, Refusal):
            await _write(send, self._refused(request, fields))
        elif (preflight := self._preflight(request)) is not None:
            await _write(send, preflight)
        else:
            # Whoever has hung up by now is written to in vain, and that is all.
            await _write(send, await self._answer(request))

    def _request(self, scope: Scope, receive: Receive, fields: Fields) -> Request:
        async def body() -> bytes | Refusal:
            return await _read_body(receive, self._config.max_body_bytes)

        path: bytes = scope["raw_path"]
        prefix = self._config.prefix
        if prefix and path.startswith(prefix + b"/"):
            path = path[len(prefix) :]
        origin = fields.get(b"origin")
        return Request(
            request_id(fields, self._new_id()),
            scope["method"],
            path,
            scope["query_string"],
            fields,
            body,
            origin if origin in self._config.cors.origins else None,
        )

    def _refused(self, request: Request, refusal: Refusal) -> Reply:
        return reply(Trip(refusal), request, self._config.default_representation, 0.0, self._wall())

    def _preflight(self, request: Request) -> Reply | None:
        """The answer to a CORS preflight from a configured origin; nobody else is answered here."""
        if request.method != "OPTIONS" or request.origin is None:
            return None
        if b"access-control-request-method" not in request.fields:
            return None
        head = (
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", str(self._config.cors.max_age_s).encode()),
            (b"vary", b"Origin"),
        )
        return Reply(204, join(head, Own(request.id, self._wall(), origin=request.origin)), b"")


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
