"""The emulator behind a socket: a small HTTP/1.1 server that can misbehave on request."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from typing import assert_never, cast

import httptools

from gateway.emulator.control import handle as handle_control
from gateway.emulator.control import is_control
from gateway.emulator.messages import (
    Drip,
    Drop,
    EmulatorRequest,
    EmulatorResponse,
    Hang,
    Reset,
    Truncate,
    Whole,
)
from gateway.emulator.service import Emulator

#: How long bytes get to leave before the connection is reset after them.
_FLUSH_S = 0.02
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class EmulatorServer:
    """A listening emulator."""

    def __init__(self, emulator: Emulator, listener: asyncio.Server, connections: set[Connection]) -> None:
        self.emulator = emulator
        self.connections = connections
        self._listener = listener
        self._host, self.port = listener.sockets[0].getsockname()[:2]

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://{self._host}:{self.port}"

    async def close(self) -> None:
        """Stop listening and cut what is open."""
        self._listener.close()
        for connection in list(self.connections):
            connection.abort()
        await self._listener.wait_closed()


async def serve(emulator: Emulator, host: str = "127.0.0.1", port: int = 0) -> EmulatorServer:
    """Put an emulator behind a socket, by default on a free port of this machine only."""
    connections: set[Connection] = set()
    listener = await asyncio.get_running_loop().create_server(
        lambda: Connection(emulator, connections), host, port
    )
    return EmulatorServer(emulator, listener, connections)


class Connection(asyncio.Protocol):
    """One connection. Requests are answered in the order they came, one at a time."""

    def __init__(self, emulator: Emulator, connections: set[Connection]) -> None:
        self._emulator = emulator
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[EmulatorRequest, bool]] = deque()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._raw = b""
        self.on_message_begin()

    # What the parser tells.

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        request = EmulatorRequest(method, self._target, tuple(self._headers), self._body, self._raw)
        self._raw = b""
        self._waiting.append((request, self._parser.should_keep_alive()))

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._connections.discard(self)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._raw += data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # the request is answered as if it had not asked for another protocol
        except httptools.HttpParserError:
            self._transport.write(_BAD_REQUEST)
            self._transport.close()
            return
        self._next()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    # The answers.

    def _next(self) -> None:
        while self._waiting and not self._busy:
            request, keep_alive = self._waiting.popleft()
            self._answer(request, keep_alive)

    def _answer(self, request: EmulatorRequest, keep_alive: bool) -> None:
        handle = handle_control if is_control(request) else Emulator.handle
        response = handle(self._emulator, request)
        if request.method == "HEAD":
            response = replace(response, headers=(*response.headers, _length(response)), body=b"")
        self._busy = True
        if response.delay_s:
            self._later(response.delay_s, self._deliver, response, keep_alive)
        else:
            self._deliver(response, keep_alive)

    def _deliver(self, response: EmulatorResponse, keep_alive: bool) -> None:
        delivery = response.delivery
        head = _head(response, keep_alive)
        match delivery:
            case Whole():
                self._transport.write(head + response.body)
                self._finish(keep_alive)
            case Hang():
                pass
            case Drop():
                self._transport.close()
            case Reset():
                self._transport.write((head + response.body)[: delivery.after_bytes])
                self._later(_FLUSH_S, self._reset)
            case Drip():
                self._drip(head + response.body, delivery, keep_alive)
            case Truncate():
                self._transport.write(head + response.body[: delivery.keep_bytes])
                self._transport.close()
            case _:
                assert_never(delivery)

    def _drip(self, rest: bytes, drip: Drip, keep_alive: bool) -> None:
        self._transport.write(rest[: drip.chunk_bytes])
        rest = rest[drip.chunk_bytes :]
        if rest:
            self._later(drip.every_s, self._drip, rest, drip, keep_alive)
        else:
            self._finish(keep_alive)

    def _reset(self) -> None:
        # Closing with a linger of zero seconds is what makes TCP send RST and not FIN.
        connected = self._transport.get_extra_info("socket")
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _finish(self, keep_alive: bool) -> None:
        if keep_alive:
            self._busy = False
        else:
            self._transport.close()

    def _later(self, delay_s: float, act: Callable[..., None], *arguments: object) -> None:
        def run() -> None:
            act(*arguments)
            self._next()

        self._timer = self._loop.call_later(delay_s, run)


def _head(response: EmulatorResponse, keep_alive: bool) -> bytes:
    parts = [_status_line(response.status)]
    parts += [b"%b: %b\r\n" % header for header in response.headers]
    if _needs_length(response):
        parts.append(b"%b: %b\r\n" % _length(response))
    if not keep_alive:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    return b"".join(parts)


def _needs_length(response: EmulatorResponse) -> bool:
    if response.status in (204, 304):
        return False
    return all(name not in (b"content-length", b"transfer-encoding") for name, _ in response.headers)


def _length(response: EmulatorResponse) -> tuple[bytes, bytes]:
    return b"content-length", str(len(response.body)).encode()


@lru_cache
def _status_line(status: int) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Unknown"
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()
