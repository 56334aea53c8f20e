"""Where the messages of a stream go: one client's connection, and whether that client takes them.

Nobody is ever waited for. Who is too slow is cut off, and comes back with the id of its last message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.core.push import Stream
from gateway.edge.deadlines import reset, unsent

#: Who has left more than this untaken gets no further message. Before it nothing is dropped, whatever its
#: length: the first message may be a long document.
MAX_UNSENT_BYTES = 262_144
#: How much later who seems to have taken nothing is looked at once more.
LATE_S = 0.25


class Outlet:
    """The sink of one stream. `send_s` is asked how long what was written may go unacknowledged.

    It is looked at once in that time, so who stops in between is dropped after `send_s` to twice as long.
    Over TLS what is unacknowledged is counted encrypted, and without what its transport keeps below.
    """

    def __init__(
        self, stream: Stream, transport: asyncio.Transport, send_s: Callable[[], float], *, has_chunks: bool
    ) -> None:
        self._stream = stream
        self._transport = transport
        self._send_s = send_s
        #: Whether messages are chunks; else they end with the connection.
        self._has_chunks = has_chunks
        self._is_over = self._is_lost = False
        #: Set when nothing more comes, or nobody is there any more.
        self.ended = asyncio.Event()
        #: How much was written; how much of it is to be acknowledged when the timer rings.
        self._written = self._due = 0
        #: So much is unsent at most; to know it exactly takes a system call.
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._is_late = False

    @property
    def is_open(self) -> bool:
        """Whether somebody is there who reads: not gone, and not dropped."""
        return not (self._is_over or self._is_lost or self._transport.is_closing())

    def open(self, head: bytes, *, is_wanted: bool) -> None:
        """Write the head and have the stream begin; where it is not wanted any more, have it end."""
        self._send(head)
        if is_wanted:
            self._stream.begin(self)
        else:
            self.leave()

    def write(self, message: bytes) -> None:
        """Send it; who has not taken enough of what came before is dropped instead."""
        # An empty chunk would be the last.
        if not message or not self.is_open:
            return
        if self._unsent > MAX_UNSENT_BYTES:
            self._unsent = unsent(self._transport)
        if self._unsent > MAX_UNSENT_BYTES:
            reset(self._transport)
        else:
            self._send(b"%x\r\n%b\r\n" % (len(message), message) if self._has_chunks else message)

    def close(self) -> None:
        """Nothing more comes."""
        if self._is_over:
            return
        if self._has_chunks and self.is_open:
            self._transport.write(b"0\r\n\r\n")
        self._is_over = True
        self.ended.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def leave(self) -> None:
        """The client is said to want no more: the stream hears of it, unless it is over."""
        if not self._is_over:
            self._stream.lost()
            self.close()

    def lose(self) -> None:
        """Nobody is there any more."""
        self._is_lost = True
        self.leave()

    def _send(self, data: bytes) -> None:
        self._transport.write(data)
        self._written += len(data)
        self._unsent += len(data)
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        self._due = self._written
        self._is_late = False
        self._timer = asyncio.get_running_loop().call_later(self._send_s(), self._look)

    def _look(self) -> None:
        self._timer = None
        if not self.is_open:
            return
        self._unsent = unsent(self._transport)
        if self._written - self._unsent < self._due:
            if self._is_late:
                reset(self._transport)
            else:
                # Encrypted, what is on its way counts for a little more than was written.
                self._is_late = True
                self._timer = asyncio.get_running_loop().call_later(LATE_S, self._look)
        elif self._unsent:
            self._look_later()
