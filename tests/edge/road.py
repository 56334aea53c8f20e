"""A road that says nothing of its own, and the edge before it, in memory."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from starlette.types import Receive, Scope, Send

from gateway.core.errors import Reason, Refusal
from gateway.core.peers import Network
from gateway.core.replies import Reply
from gateway.core.requests import Request
from gateway.edge.protocol import Bounds, ShortCut
from gateway.edge.server import Running, bind, listening
from gateway.edge.web import Cors, Web, WebConfig
from tests.connections import Edge
from tests.support import PATIENCE_S

HOST = b"host: gateway.test\r\n"
GET = b"GET /a HTTP/1.1\r\n" + HOST
PUT = b"PUT /a HTTP/1.1\r\n" + HOST
MAX_BODY = 1_000
BOUNDS = Bounds()


@dataclass
class Road:
    """Answers all with 200, once it has the body; takes down what it was asked and what was refused.

    It asks for the body after `busy_s`, and answers `latency_s` after it has it, with `reply` for a body.
    """

    asked: list[tuple[str, bytes, bytes, object]] = field(default_factory=list)
    refused: list[Reason] = field(default_factory=list)
    busy_s: float = 0
    latency_s: float = 0.01
    reply: bytes = b""
    full_for: Refusal | None = None
    stream_send_s: float = 5.0

    def full(self, _: bytes | None) -> Refusal | None:
        return self.full_for

    async def answer(self, request: Request) -> Reply:
        if self.busy_s:
            await asyncio.sleep(self.busy_s)
        body = await request.body(MAX_BODY)
        if isinstance(body, Refusal):
            return self.refuse(request, body)
        self.asked.append((request.method, request.path + b"?" + request.query, body, request.fields))
        await asyncio.sleep(self.latency_s)
        head = b"x: 200 %s\r\ncontent-length: %d\r\n" % (request.path[:9], len(self.reply))
        return Reply(200, head, self.reply)

    def refuse(self, _: Request, refusal: Refusal) -> Reply:
        reason = refusal.reason
        self.refused.append(reason)
        wait = f"retry-after: {refusal.retry_after_s:.0f}\r\n" if refusal.retry_after_s else ""
        return Reply(reason.status, f"x: {reason.slug}\r\n{wait}content-length: 0\r\n".encode(), b"")


def web(road: Road, trusted: tuple[Network, ...] = ()) -> Web:
    ids = count()
    config = WebConfig(b"", Cors(frozenset(), 0), trusted, road.stream_send_s)
    return Web(road, lambda: config, lambda: str(next(ids)), lambda: 0.0)


def edge(road: Road, bounds: Bounds = BOUNDS, short_cut: ShortCut | None = None) -> Edge:
    return Edge(web(road), short_cut, bounds)


def replies(text: bytes) -> list[str]:
    """A word a reply: 200, or the problem."""
    return re.findall(r"^x: (200|[a-z0-9-]+)", text.decode(), re.MULTILINE)


async def _private(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def on_sockets(
    road: Road,
    bounds: Bounds = BOUNDS,
    *,
    tls: ssl.SSLContext | None = None,
    short_cut: ShortCut | None = None,
) -> AsyncIterator[Running]:
    """Both listeners before it, with one certificate; the private one answers 204."""

    async def drain() -> None:
        pass

    with (
        contextlib.closing(bind("127.0.0.1", 0)) as public,
        contextlib.closing(bind("127.0.0.1", 0)) as private,
    ):
        listeners = listening(
            (web(road), short_cut, public), (_private, private), 1, drain, bounds=bounds, tls=(tls, tls)
        )
        async with listeners as addresses:
            yield addresses


@contextlib.asynccontextmanager
async def client(
    address: tuple[str, int], chain: Path | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection; with TLS, by one that trusts nobody but this certificate, if there is one."""
    trusting = None if chain is None else ssl.create_default_context(cafile=chain)
    name = None if chain is None else chain.stem
    reader, writer = await asyncio.open_connection(*address, ssl=trusting, server_hostname=name)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def heard(reader: asyncio.StreamReader) -> bytes:
    """All until the end."""
    async with asyncio.timeout(PATIENCE_S):
        return await reader.read()


async def settle() -> None:
    """Until every answer that can be given has been."""
    await asyncio.sleep(1)
