"""The edge on connections in memory: what a client sends arrives at once, what it gets is taken down.

Only the transport is not real: it can refuse to take more, and it counts time by its loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from gateway.edge.protocol import Bounds, Connection, ShortCut, speaking
from gateway.edge.server import DEFAULT_BOUNDS, _listener
from gateway.edge.web import Web

#: As asyncio has it.
HIGH_WATER_BYTES = 64 * 1024


class Peer(asyncio.Transport):
    """One connection, seen from its client; for the edge it is the transport.

    `received` has what the client read: (when, by the loop's time, what), piece by piece. `eof_at` is when it
    heard that nothing more comes; then it hangs up, unless it is `stubborn`. `closed_at` is when the
    connection ended, and what was not read by then never is.
    """

    def __init__(self, connection: Connection, address: str, *, stubborn: bool = False) -> None:
        super().__init__({"peername": (address, 40_000), "sockname": ("192.0.2.254", 80)})
        self.received: list[tuple[float, bytes]] = []
        self.stubborn = stubborn
        self.eof_at: float | None = None
        self.closed_at: float | None = None
        self.unread = bytearray()
        self._connection = connection
        self._loop = connection.loop
        self._reads = True
        self._is_closing = False
        self._is_paused = False
        #: None is the end.
        self._on_the_way: deque[bytes | None] = deque()
        self._is_ended = False
        connection.connection_made(self)

    @property
    def text(self) -> bytes:
        """All that the client read."""
        return b"".join(piece for _, piece in self.received)

    # -- the client's -------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a segment. It arrives as one, as soon as the edge reads."""
        self._on_the_way.append(data)
        self._arrive()

    def no_more(self) -> None:
        """Say that nothing more will be sent, and go on reading."""
        self._on_the_way.append(None)
        self._arrive()

    def arrive_late(self, data: bytes) -> None:
        """Have something arrive as it does when the connection is closed already."""
        self._connection.data_received(data)

    def stop_reading(self) -> None:
        self._reads = False

    def take(self, size: int) -> None:
        """Read so many bytes of what has piled up, and no more."""
        self._read(bytes(self.unread[:size]))
        del self.unread[:size]

    def read_on(self) -> None:
        """Read all that has piled up, and what comes."""
        self._reads = True
        if self.unread:
            self._read(bytes(self.unread))
            self.unread.clear()
            if self._is_closing:
                self._end()
                return
            self._connection.resume_writing()
            if self._is_ended:
                self._hear_the_end()

    def hang_up(self) -> None:
        """Leave at once, with whatever is unread."""
        self.unread.clear()
        self.close()

    # -- the edge's ---------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        if self._is_closing:
            return
        if self._reads:
            self._read(bytes(data))
            return
        self.unread += data
        if len(self.unread) > HIGH_WATER_BYTES:
            self._connection.pause_writing()

    def close(self) -> None:
        if self._is_closing:
            return
        self._is_closing = True
        self._on_the_way.clear()
        if not self.unread:
            self._end()

    def abort(self) -> None:
        self.unread.clear()
        if self._is_closing and self.closed_at is None:
            self._end()
        self.close()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._is_ended = True
        if not self.unread:
            self._hear_the_end()

    def _hear_the_end(self) -> None:
        self.eof_at = self._loop.time()
        if not self.stubborn:
            self.no_more()

    def get_write_buffer_size(self) -> int:
        return len(self.unread)

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        while self._on_the_way and not self._is_paused and not self._is_closing:
            data = self._on_the_way.popleft()
            if data is not None:
                self._connection.data_received(data)
            elif not self._connection.eof_received():
                self.close()

    def _read(self, data: bytes) -> None:
        self.received.append((self._loop.time(), data))

    def _end(self) -> None:
        self.closed_at = self._loop.time()
        self._loop.call_soon(self._connection.connection_lost, None)


class Edge:
    """What uvicorn makes of a site and a short cut, without a socket to listen on."""

    def __init__(self, web: Web, short_cut: ShortCut | None, bounds: Bounds = DEFAULT_BOUNDS) -> None:
        self.protocol = speaking(web, short_cut, bounds, web.is_trusted)
        self._state = ServerState()
        self._config = _listener(cast(ASGIApp, web), self.protocol, grace_s=0, bounds=bounds).config

    def connect(self, address: str = "192.0.2.1", *, stubborn: bool = False) -> Peer:
        """A client's new connection."""
        loop = asyncio.get_running_loop()
        return Peer(self.protocol(self._config, self._state, {}, loop), address, stubborn=stubborn)

    def shut_down(self) -> None:
        """What uvicorn does with open connections when it is told to end."""
        for connection in list(self._state.connections):
            connection.shutdown()
