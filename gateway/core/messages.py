"""The values that travel the road.

Headers are ordered pairs of bytes with lower-case names, as ASGI and HTTP libraries hand them over.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple

Headers = tuple[tuple[bytes, bytes], ...]


class Representation(enum.Enum):
    """The two formats the Server Chat API speaks."""

    JSON = "json"
    XML = "xml"

    @property
    def media_type(self) -> bytes:
        return b"application/json" if self is Representation.JSON else b"application/xml"


#: What makes two reads the same: canonical path, canonical query, representation.
Key = tuple[str, str, Representation]


class Chat(NamedTuple):
    """Which chat: the unit of generations, of contact and of writes."""

    # A tuple, for it is hashed several times a request.
    account: str
    id: str


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """What will be asked of the upstream, complete but for the appKey.

    `target` is path and query in their canonical form, ready for the request line.
    """

    account: str
    method: str
    target: bytes
    headers: Headers
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the upstream said. Bodies and headers are tainted until `core.answers` has been over them."""

    status: int
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header given by its lower-case name."""
        for key, value in self.headers:
            if key == name:
                return value
        return None
