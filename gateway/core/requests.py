"""A client's request, as far as the gateway reads it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.core.errors import Refusal
from gateway.core.headers import VARY, Fields
from gateway.core.messages import Representation
from gateway.core.paths import Line, preferred

#: A body of at most so many bytes, read late or never; or why it cannot be had.
Body = Callable[[int], Awaitable[bytes | Refusal]]


def always() -> bool:
    """For whoever is not to be asked whether he is still there."""
    return True


@dataclass(frozen=True, slots=True)
class Poll:
    """A read of the kind that is answered again and again: by its request line and its fields.

    `block` is everything after the request line, as it came.
    """

    line: bytes = field(repr=False)
    fields: Fields = field(repr=False)
    block: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """Line, fields of the table, and a body that is read late or never.

    `path` is raw: nothing in it is decoded. `origin` is the Origin that the configuration lets read
    replies (CORS), if there was one; `vary` is what replies depend on. `peer` is the client's address, None
    where nobody sent the request; `visitor` is the one that the client says its own visitor has. `is_there`
    tells whether the client is, as far as is known.
    """

    id: str
    method: str
    path: bytes
    query: bytes = field(repr=False)
    fields: Fields = field(repr=False)
    body: Body = field(repr=False)
    origin: bytes | None = None
    vary: bytes = VARY
    peer: str | None = ""
    visitor: str | None = field(default=None, repr=False)
    poll: Poll | None = None
    is_there: Callable[[], bool] = field(default=always, repr=False)

    @property
    def wait_s(self) -> int | None:
        """How long the client would rather wait than hear that nothing is new (RFC 7240 §4.3)."""
        prefer = self.fields.get(b"prefer")
        said = None if prefer is None else _WAIT.search(b"," + prefer)
        return None if said is None else int(said[1][:4])

    @property
    def last_event_id(self) -> bytes | None:
        """The id of the last message that the client has had."""
        return self.fields.get(b"last-event-id")

    @property
    def line(self) -> Line:
        fields = self.fields
        return Line(
            self.method, self.path, self.query, fields.get(b"accept"), fields.get(b"x-http-method-override")
        )

    def problem_representation(self, default: Representation) -> Representation:
        """What a problem document is written in: XML only for those who asked for XML."""
        return preferred(self.path, self.fields.get(b"accept"), default) or Representation.JSON


_WAIT = re.compile(rb',[ \t]*wait[ \t]*=[ \t]*"?([0-9]{1,10})"?[ \t]*(?=[,;]|\Z)', re.IGNORECASE)
