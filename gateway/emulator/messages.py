"""What goes in and what comes out of the emulator, and the ways an answer can fail to arrive."""

from __future__ import annotations

from dataclasses import dataclass, field

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class EmulatorRequest:
    """One request; header names are lower-case.

    `raw` is what the socket delivered, kept only for the record; a request made without a socket has none.
    """

    method: str
    target: bytes
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)
    raw: bytes = field(default=b"", repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header given by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)


@dataclass(frozen=True, slots=True)
class Whole:
    """The answer arrives as it is."""


@dataclass(frozen=True, slots=True)
class Hang:
    """Nothing arrives, and the connection stays open until the other side closes it."""


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is closed (FIN) without a byte."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (RST) after so many bytes of head and body."""

    after_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Drip:
    """Head and body arrive `chunk_bytes` at a time, a chunk every `every_s` seconds."""

    chunk_bytes: int
    every_s: float


@dataclass(frozen=True, slots=True)
class Truncate:
    """Content-Length speaks of the whole body, but the connection closes after `keep_bytes` of it."""

    keep_bytes: int


Delivery = Whole | Hang | Drop | Reset | Drip | Truncate
WHOLE = Whole()


@dataclass(frozen=True, slots=True)
class EmulatorResponse:
    """One answer. `delay_s` and `delivery` say how a server has to send it; without, they are only told."""

    status: int
    headers: Headers = ()
    body: bytes = field(default=b"", repr=False)
    delay_s: float = 0.0
    delivery: Delivery = WHOLE

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header given by its lower-case name."""
        return next((value for key, value in self.headers if key == name), None)
