"""The clients' side of the road: heads in, replies out.

One way in for every path: which resources there are is the road's affair, not a router's.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import VARY, VARY_WITH_CORS, Fields, Own, join, lines, request_id
from gateway.core.paths import DESCRIPTION, PREFIX
from gateway.core.peers import Network, is_trusted, peer_and_visitor
from gateway.core.replies import Reply
from gateway.core.requests import Body, Request, always
from gateway.edge.heads import Head

#: When who found no room for a connection may try again.
TRY_AGAIN_S = (1.0, 2.0, 3.0)


async def _no_body(_max_bytes: int) -> bytes:
    return b""


class Road(Protocol):
    """Where requests are answered. What the edge refuses itself goes there too, to be counted."""

    async def answer(self, request: Request) -> Reply: ...
    def refuse(self, request: Request, refusal: Refusal) -> Reply: ...
    def full(self, authorization: bytes | None) -> Refusal | None: ...


@dataclass(frozen=True, slots=True)
class Cors:
    """Which origins' scripts may use the gateway; none, unless configured."""

    origins: frozenset[bytes]
    max_age_s: int


@dataclass(frozen=True, slots=True)
class WebConfig:
    """What the edge needs to know; asked for at each request.

    `prefix` is the path of the public URL: clients may send it or not. `trusted_proxies` are those whose
    X-Forwarded-For is believed. `stream_send_s` is how long the client of a stream may take to acknowledge.
    """

    prefix: bytes
    cors: Cors
    trusted_proxies: Sequence[Network] = ()
    stream_send_s: float = 5.0


class Web:
    """The public side. `new_id` makes request ids; `wall` is epoch seconds."""

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
        # In turn, so that they don't come back together.
        self._try_again = itertools.cycle(TRY_AGAIN_S)
        self._wall = wall

    async def answer(self, head: Head, peer: str, body: Body, is_there: Callable[[], bool]) -> Reply:
        """The reply to one request; `peer` is the address of the socket, if it has one."""
        fields = head.fields
        if isinstance(fields, Refusal):
            return self._road.refuse(self._request(head, peer, {}, body), fields)
        request = self._request(head, peer, fields, body, is_there)
        if request.method == "OPTIONS" and (preflight := self._preflight(request)) is not None:
            return preflight
        try:
            return await self._road.answer(request)
        except asyncio.CancelledError:
            # The server cancels what has outlasted the end of the process, such as a body that never comes.
            return self._road.refuse(request, Refusal(Reason.DRAINING))

    def at_the_door(self, head: Head, peer: str) -> Reply | None:
        """The reply to a request for which there is no room, whoever sent it."""
        if isinstance(head.fields, Refusal):
            return None
        full = self._road.full(head.fields.get(b"authorization"))
        if full is None:
            return None
        return self._road.refuse(self._request(head, peer, head.fields, _no_body), full)

    def refuse(self, reason: Reason) -> Reply:
        """The reply to bytes that are no request, or none that is read to its end."""
        wait_s = next(self._try_again) if reason is Reason.TOO_MANY_CONNECTIONS else None
        refusal = Refusal(reason, retry_after_s=wait_s)
        return self._road.refuse(Request(self._new_id(), "-", b"", b"", {}, _no_body), refusal)

    def stream_send_s(self) -> float:
        """How long the client of a stream may take to acknowledge, as it is configured now."""
        return self._config().stream_send_s

    def is_trusted(self, peer: str) -> bool:
        """Whether that is the address of one of the `trusted_proxies`."""
        return is_trusted(peer, self._config().trusted_proxies)

    def _request(
        self,
        head: Head,
        socket_peer: str,
        fields: Fields,
        body: Body,
        is_there: Callable[[], bool] = always,
    ) -> Request:
        config = self._config()
        origin = fields.get(b"origin")
        peer, visitor = peer_and_visitor(socket_peer, fields.get(b"x-forwarded-for"), config.trusted_proxies)
        path, _, query = head.target.partition(b"?")
        return Request(
            request_id(fields) or self._new_id(),
            head.method,
            below(config.prefix, path),
            query,
            fields,
            body,
            origin if origin in config.cors.origins else None,
            VARY_WITH_CORS if config.cors.origins else VARY,
            peer,
            visitor,
            head.poll,
            is_there,
        )

    def _preflight(self, request: Request) -> Reply | None:
        """The answer to a CORS preflight from a configured origin; nobody else is answered here."""
        if request.origin is None or b"access-control-request-method" not in request.fields:
            return None
        head = (
            (b"access-control-allow-methods", b"GET, HEAD, POST, PUT"),
            (b"access-control-allow-headers", _ALLOWED_HEADERS),
            (b"access-control-max-age", str(self._config().cors.max_age_s).encode()),
        )
        own = Own(request.id, self._wall(), request.vary, origin=request.origin)
        return Reply(204, join(lines(head), own), b"")


def below(prefix: bytes, path: bytes) -> bytes:
    """A path as the road knows it, whether or not it came with the path of the public URL."""
    is_ours = path.startswith(prefix + PREFIX.encode()) or path == prefix + DESCRIPTION.encode()
    return path[len(prefix) :] if prefix and is_ours else path


_ALLOWED_HEADERS = (
    b"Accept, Authorization, Content-Type, If-None-Match, Last-Event-ID, Prefer, X-HTTP-Method-Override,"
    b" X-Request-ID"
)
