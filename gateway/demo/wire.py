"""A lean HTTP/1.1 client: it shares its two cores with what it measures."""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

DEADLINE_S = 10.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)
_WITHOUT_BODY = frozenset({204, 304})


class Broken(Exception):
    """No answer came, or none that can be read."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; `head` as it came, `received` by the client's clock."""

    status: int
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)
    received: float

    def header(self, name: str) -> str:
        """A header's value, or nothing."""
        found = _header(name).search(self.head)
        return found[1].decode("latin-1") if found else ""


@functools.cache
def _header(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?im)^%s: *(.*?)\r?$" % re.escape(name.encode()))


def request(
    method: str, host: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """The bytes of a request."""
    fields = {"Host": host, **(headers or {})}
    if body:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


class Client:
    """One client with one keep-alive connection, which is opened again when it was lost.

    It reads answers with a Content-Length only. `now` stamps them; a loop's own time has milliseconds only.
    """

    def __init__(self, host: str, port: int, now: Callable[[], float] = time.monotonic) -> None:
        self._address = (host, port)
        self._now = now
        self._connection: _Connection | None = None

    async def open(self) -> None:
        """Connect, unless connected. Raises Broken."""
        if self._connection is None or self._connection.lost:
            loop = asyncio.get_running_loop()
            try:
                _, self._connection = await loop.create_connection(
                    lambda: _Connection(self._now), *self._address
                )
            except OSError as error:
                raise Broken("no connection") from error

    async def ask(self, request: bytes) -> Response:
        """Send a request and wait for its answer. Raises Broken, also when none comes in `DEADLINE_S`."""
        try:
            async with asyncio.timeout(DEADLINE_S):
                await self.open()
                return await cast(_Connection, self._connection).ask(request)
        except TimeoutError:
            self.close()
            raise Broken("no answer in time") from None

    def close(self) -> None:
        """Hang up."""
        if self._connection is not None:
            self._connection.hang_up()
            self._connection = None


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.lost = False
        self._now = now
        self._received = bytearray()
        self._answer: asyncio.Future[Response] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        self._fail("connection closed" if exc is None else "connection lost")

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            response = read(bytes(self._received), self._now())
        except Broken as error:
            self._fail(str(error))
            self.hang_up()
            return
        if response is not None and self._answer is not None and not self._answer.done():
            self._received.clear()
            self._answer.set_result(response)

    def ask(self, request: bytes) -> asyncio.Future[Response]:
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def hang_up(self) -> None:
        self.lost = True
        self._transport.abort()

    def _fail(self, why: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(why))


def read(received: bytes, now: float) -> Response | None:
    """The response that these bytes are, or None while it is not complete. Raises Broken."""
    head, end, body = received.partition(b"\r\n\r\n")
    if not end:
        return None
    head += b"\r\n"
    try:
        status = int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise Broken("no HTTP") from None
    length = _LENGTH.search(head)
    if length is None and status not in _WITHOUT_BODY:
        raise Broken("no Content-Length")
    expected = int(length[1]) if length and status not in _WITHOUT_BODY else 0
    if len(body) > expected:
        raise Broken("more than Content-Length says")
    return Response(status, head, body, now) if len(body) == expected else None
