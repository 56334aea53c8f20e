"""Which fields of an answer a client gets to see, and the finished slot that shows them."""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway.core.messages import Headers


@dataclass(frozen=True, slots=True)
class View:
    """A named choice of fields. There is one so far, and it shows all."""

    name: str


FULL = View("full")


@dataclass(frozen=True, slots=True)
class Slot:
    """The finished head and body of (target, view), rendered once per entry.

    The head is complete but for the request's own fields, which `core.headers.join` adds.
    """

    status: int
    head: Headers
    body: bytes = field(repr=False)
    etag: bytes | None
