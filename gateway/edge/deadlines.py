"""Whether a client takes what is written to it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable

#: Who takes less than this within `send_s`, and not all there is, does not read. nginx counts any byte.
MIN_TAKEN_BYTES = 4_096
#: How often is looked within `send_s`.
LOOKS = 20
#: The least that a timer of the loop can wait.
TICK_S = 0.001


class Sending:
    """Cuts a connection off whose client takes nothing for `send_s`.

    `written_at` is when it was last written to, by the loop's time.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        send_s: float,
        written_at: Callable[[], float],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._send_s = send_s
        self._written_at = written_at
        self._timer: asyncio.TimerHandle | None = None
        #: How much there was when it was last seen to be taken, and when that was.
        self._unsent = 0
        self._taken_at = 0.0

    @property
    def is_watched(self) -> bool:
        """Whether somebody will look."""
        return self._timer is not None

    def watch(self) -> None:
        """Look how much there is now, and again and again."""
        self.stop()
        self._taken()
        self._look_later()

    def stop(self) -> None:
        """Nobody needs to look any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _taken(self) -> None:
        self._unsent = unsent(self._transport)
        self._taken_at = self._loop.time()

    def _look_later(self) -> None:
        # Often, or who takes a little at once would seem to have taken it at the end of a long while.
        self._timer = self._loop.call_later(self._send_s / LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._transport.get_write_buffer_size():
            return
        # What was written meanwhile hides what was taken; that ends when the buffer is full.
        has_grown = self._written_at() - self._taken_at > TICK_S
        if has_grown or self._unsent - unsent(self._transport) >= MIN_TAKEN_BYTES:
            self._taken()
        elif self._loop.time() - self._taken_at >= self._send_s - TICK_S:
            reset(self._transport)
            return
        self._look_later()


def reset(transport: asyncio.Transport) -> None:
    """End it at once; else the system would go on offering the rest for minutes, and keep it that long."""
    connected = transport.get_extra_info("socket")
    if connected is not None:
        with contextlib.suppress(OSError):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def unsent(transport: asyncio.Transport) -> int:
    """How many bytes are on their way, with those that the system has taken and the client has not.

    The system takes more only when a good part of its own buffer, of megabytes, is free: without it a slow
    client would seem to stand still.
    """
    held = transport.get_write_buffer_size()
    connected = transport.get_extra_info("socket")
    try:
        taken = b"" if connected is None else fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, b"\0" * 4)
    except OSError:
        taken = b""
    return held + (struct.unpack("i", taken)[0] if taken else 0)
