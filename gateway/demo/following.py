"""A client that is told: server-sent events as one reads them, on as few cycles as can be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from gateway.demo.wire import request


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `at` is when it came, by the wall clock."""

    kind: str
    id: str | None
    data: bytes = field(repr=False)
    at: float


class Follower(asyncio.Protocol):
    """One stream, from its request to its end. `ended` is done then."""

    def __init__(self, question: bytes, hear: Callable[[Message], object]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.status = 0
        self.retry_s: float | None = None
        self._question = question
        self._hear = hear
        self._received = bytearray()
        self._text = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._question)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        at = time.time()
        self._received += data
        if not self.status:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            self.status = int(head.split(b" ", 2)[1])
            self._received = rest
            if self.status != 200:
                self.transport.close()
                return
        self._unchunk()
        while (end_at := self._text.find(b"\n\n")) >= 0:
            self._read(bytes(self._text[:end_at]), at)
            del self._text[: end_at + 2]

    def _unchunk(self) -> None:
        while (line_end := self._received.find(b"\r\n")) >= 0:
            size = int(self._received[:line_end], 16)
            if len(self._received) < line_end + 2 + size + 2:
                return
            self._text += self._received[line_end + 2 : line_end + 2 + size]
            del self._received[: line_end + 2 + size + 2]
            if not size:
                self.transport.close()

    def _read(self, text: bytes, at: float) -> None:
        said: dict[str, bytes] = {}
        for line in text.split(b"\n"):
            name, _, value = line.partition(b":")
            key, value = name.decode(), value.removeprefix(b" ")
            said[key] = said[key] + b"\n" + value if key == "data" and key in said else value
        if "retry" in said:
            self.retry_s = int(said["retry"]) / 1000
        if "data" in said:
            last = said["id"].decode() if "id" in said else None
            self._hear(Message(said.get("event", b"message").decode(), last, said["data"], at))


def following(host: str, path: str, token: str, last_id: str | None = None) -> bytes:
    """The bytes that ask for a stream, or for what follows a message."""
    fields = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream"}
    return request("GET", host, path, fields | ({} if last_id is None else {"Last-Event-ID": last_id}))


async def follow(host: str, port: int, question: bytes, hear: Callable[[Message], object]) -> Follower:
    """A stream that has been asked for. Raises OSError."""
    loop = asyncio.get_running_loop()
    _, follower = await loop.create_connection(lambda: Follower(question, hear), host, port)
    return follower
