"""The edge on connections in memory: what a client sends arrives at once, what it gets is taken down.

Only the transport is not real: it can refuse to take more, and it counts time by its loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, cast

from starlette.types import ASGIApp
from uvicorn.server import ServerState

from gateway.edge.protocol import Connection, ShortCut, speaking
from gateway.edge.server import KEEP_ALIVE_S, _listener
from gateway.edge.web import Web

#: As asyncio has it.
HIGH_WATER_BYTES = 64 * 1024


class Peer(asyncio.Transport):
    """One connection, seen from its client; for the edge it is the transport.

    `received` has what the client read: (when, by the loop's time, what), piece by piece. `closed_at` is when
    the connection ended, and what was not read by then never is.
    """

    def __init__(self, connection: Connection, address: str) -> None:
        super().__init__({"peername": (address, 40_000), "sockname": ("192.0.2.254", 80)})
        self.received: list[tuple[float, bytes]] = []
        self.closed_at: float | None = None
        self.unread = bytearray()
        self._connection = connection
        self._loop = connection.loop
        self._reads = True
        self._is_closing = False
        self._is_paused = False
        self._on_the_way: deque[bytes] = deque()
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

    def stop_reading(self) -> None:
        self._reads = False

    def read_on(self) -> None:
        """Read all that has piled up, and what comes."""
        self._reads = True
        if self.unread:
            self._read(bytes(self.unread))
            self.unread.clear()
            if self._is_closing:
                self._end()
            else:
                self._connection.resume_writing()

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
        self.hang_up()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        self._is_paused = False
        self._loop.call_soon(self._arrive)

    def _arrive(self) -> None:
        while self._on_the_way and not self._is_paused and not self._is_closing:
            self._connection.data_received(self._on_the_way.popleft())

    def _read(self, data: bytes) -> None:
        self.received.append((self._loop.time(), data))

    def _end(self) -> None:
        self.closed_at = self._loop.time()
        self._loop.call_soon(self._connection.connection_lost, None)


class Edge:
    """What uvicorn makes of a site and a short cut, without a socket to listen on."""

    def __init__(self, web: Web, short_cut: ShortCut | None, keep_alive_s: int = KEEP_ALIVE_S) -> None:
        protocol = speaking(web, short_cut, web.max_body_bytes)
        self._protocol = protocol
        self._state = ServerState()
        self._config = _listener(cast(ASGIApp, web), protocol, drain_s=0).config
        self._config.timeout_keep_alive = keep_alive_s

    def connect(self, address: str = "192.0.2.1") -> Peer:
        """A client's new connection."""
        loop = asyncio.get_running_loop()
        return Peer(self._protocol(self._config, self._state, {}, loop), address)

    def shut_down(self) -> None:
        """What uvicorn does with open connections when it is told to end."""
        for connection in list(self._state.connections):
            connection.shutdown()
