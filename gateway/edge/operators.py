"""The private listener's connections: uvicorn's own, but bounded. Whoever holds one up is no operator."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

#: Probes, a scraper, operators. When there are more, who has waited the longest has to go.
MAX_OPERATORS = 256
MAX_FIELDS = 100
#: How much may come without being a whole head or a piece of a body.
MAX_UNREAD_BYTES = 65_536


class TooMuch(Exception):
    """More than anybody asks for. Raised through the parser, which then counts as refusing."""


class Operator(HttpToolsProtocol):
    """One connection, and one request at a time.

    The next one has to be whole within the idle time, whatever comes meanwhile, and its reply has to be taken
    within as long. One that is made bit by bit may last while it is taken: who does not is looked for as
    often.
    """

    #: Those of a listener; who comes later stands later, and who waits has a request still to come.
    waiting: dict[Operator, None]
    _deadline: asyncio.TimerHandle | None = None
    _fields = 0
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._give_up_on_the_dead(transport)
        self._wait()
        if len(self.waiting) > MAX_OPERATORS:
            next(iter(self.waiting)).transport.abort()

    def _give_up_on_the_dead(self, transport: asyncio.Transport) -> None:
        # The little that /live writes fits the system's buffer for many minutes, whoever is gone.
        connected = transport.get_extra_info("socket")
        if connected is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            untaken_ms = int(self.timeout_keep_alive * 1000)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, untaken_ms)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is kept of it."""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._wait_no_longer()

    def data_received(self, data: bytes) -> None:
        """Read it, unless it never comes to anything."""
        if self.transport.is_closing():
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MAX_UNREAD_BYTES:
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Another request; not before the last is answered."""
        if self._is_busy:
            raise TooMuch
        self._fields = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field, trailers too."""
        self._fields += 1
        if self._fields > MAX_FIELDS:
            raise TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A whole head."""
        self._unread = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is whole, and will be answered."""
        self._unread = 0
        super().on_message_complete()
        if self._is_busy:
            self._within()
            del self.waiting[self]

    def on_response_complete(self) -> None:
        """As ever, and wait for the next."""
        super().on_response_complete()
        self._wait()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; where it would be taken for the answer to another, without a word."""
        if self._is_busy:
            self.transport.abort()
        else:
            super().send_400_response(msg)

    @property
    def _is_busy(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait(self) -> None:
        self.waiting.pop(self, None)
        self.waiting[self] = None
        self._within()

    def _within(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self.loop.call_later(self.timeout_keep_alive, self._late)

    def _late(self) -> None:
        cycle: RequestResponseCycle | None = self.cycle
        has_begun = cycle is not None and cycle.response_started and not cycle.response_complete
        if has_begun and not self.flow.write_paused:
            self._within()
        else:
            self.transport.abort()

    def _wait_no_longer(self) -> None:
        self.waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def operators() -> type[Operator]:
    """A protocol class for uvicorn, which makes one of it for each connection of a listener."""
    return type("OneOfTheOperators", (Operator,), {"waiting": {}})
