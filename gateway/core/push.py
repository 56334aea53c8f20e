"""Streams: one request, and what is told on it from then on. The vocabulary; `gateway.push` has the rest.

The wire format is that of server-sent events (WHATWG HTML, §9.2): lines, and an empty one after each message.
"""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Where the messages of one stream go, one client's end of it. Nothing here ever waits."""

    @property
    def is_open(self) -> bool:
        """Whether somebody is there who reads: not gone, and not dropped."""

    def write(self, message: bytes) -> None:
        """Send it. Who has not taken in time what came before is dropped instead."""

    def close(self) -> None:
        """Nothing more comes."""


class Stream(Protocol):
    """One client that is told what changes.

    `is_over`: nothing is to be told, now or ever. Then it is never begun.
    """

    @property
    def is_over(self) -> bool: ...

    def begin(self, sink: Sink) -> None:
        """The head of the reply has been written: messages may follow."""

    def lost(self) -> None:
        """Nobody is there any more."""
