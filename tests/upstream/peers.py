"""Peers of a session that do what they like with each connection, and how they are asked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from gateway.upstream.session import Session

MAX_BYTES = 1000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
ANSWER = OK + b"content-length: 4\r\n\r\nbody"
STRAY = OK + b"content-length: 5\r\n\r\nstray"
FIELDS = ((b"accept", b"x/y"), (b"accept-encoding", b"identity"), (b"user-agent", b"me"))


@dataclass(frozen=True, slots=True)
class Turn:
    """It is the peer's turn: on which of its connections, and to answer the how manieth request there."""

    writer: asyncio.StreamWriter
    connection: int
    asked: int


Answering = Callable[[Turn], Awaitable[None]]


class Peer:
    """A server that answers, and counts."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.connections = 0
        self.open = 0
        self.most = 0
        self.requests: list[bytes] = []
        self.origin = ""
        self.hangs_up = False

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.hangs_up:
            writer.close()
            return
        self.connections += 1
        self.open += 1
        self.most = max(self.most, self.open)
        connection, asked = self.connections, 0
        # RuntimeError is what uvloop says when the other side is gone.
        with contextlib.suppress(
            asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError, RuntimeError
        ):
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                asked += 1
                await self.answering(Turn(writer, connection, asked))
                await writer.drain()
        self.open -= 1
        writer.close()


@contextlib.asynccontextmanager
async def peer(answering: Answering, context: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    it = Peer(answering)
    async with await asyncio.start_server(it, "127.0.0.1", 0, ssl=context) as server:
        scheme = "http" if context is None else "https"
        it.origin = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield it


@contextlib.asynccontextmanager
async def session(most: int = 10, idle_s: float = 15.0) -> AsyncIterator[Session]:
    it = Session(most, idle_s)
    try:
        yield it
    finally:
        await it.aclose()


def always(answer: bytes) -> Answering:
    async def answering(turn: Turn) -> None:
        turn.writer.write(answer)

    return answering


async def ask(by: Session, origin: str, path: str = "/") -> bytes:
    async with asyncio.timeout(5):
        return (await by.ask("GET", origin + path, FIELDS, MAX_BYTES)).body
