"""What a client means, how it is said by the letter, and what the upstream is to see of it.

The canonical form is written down here a second time, from the documents and from what a plain good request
looks like on the wire; nothing is asked of the gateway.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.support import APP_KEY, account_path

#: Name and value, as they stand on the wire.
Field = tuple[bytes, bytes]

JSON, XML = b"application/json", b"application/xml"
#: RFC 3986 §2.3: what is never percent-encoded.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


class Fate(enum.Enum):
    """What may become of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    EITHER = "either"


@dataclass(frozen=True, slots=True)
class Meant:
    """A request: what it asks for, however it is spelled.

    `path` stands below the account. `tag` is in the path or in the query, and in no other request of a run.
    """

    tag: str
    path: str
    method: str = "GET"
    media_type: bytes = JSON
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)
    body_is: bytes = JSON
    fate: Fate = Fate.ANSWERED
    #: Whether its spelling leaves open which of the two is asked for.
    any_type: bool = False

    @property
    def is_read(self) -> bool:
        return self.method in {"GET", "HEAD"}

    @property
    def target(self) -> bytes:
        """As a plain client would say it."""
        said = "&".join(f"{name}={percent_encoded(value)}" for name, value in self.query)
        return (account_path(self.path) + (f"?{said}" if said else "")).encode()

    @property
    def types(self) -> set[bytes]:
        return {JSON, XML} if self.any_type else {self.media_type}

    def but(self, fate: Fate) -> Meant:
        return replace(self, fate=fate)

    def canonical(self, host: bytes) -> set[bytes]:
        """The bytes that the upstream may see of it: one request, or one for each type it may ask for."""
        return {self._canonical(host, one) for one in self.types}

    def _canonical(self, host: bytes, media_type: bytes) -> bytes:
        query = {"v": "1", "NC": "true"} | dict(self.query)
        said = "&".join(f"{name}={percent_encoded(value)}" for name, value in query.items())
        fields = [
            (b"Host", host),
            (b"accept", media_type),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"chat-gateway"),
        ]
        if not self.is_read:
            fields.append((b"content-type", self.body_is))
            if self.method == "PUT":
                fields.append((b"x-http-method-override", b"PUT"))
            fields.append((b"content-length", b"%d" % len(self.body)))
        fields.append((b"authorization", b"LivePerson appKey=" + APP_KEY.encode()))
        line = b"%s %s HTTP/1.1" % (
            b"GET" if self.is_read else b"POST",
            f"{account_path(self.path)}?{said}".encode(),
        )
        return head(line, fields) + self.body


def percent_encoded(text: str) -> str:
    """RFC 3986 §2.1, of everything that is not unreserved."""
    return "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def head(line: bytes, fields: Sequence[Field]) -> bytes:
    return b"".join([line, b"\r\n", *(b"%s: %s\r\n" % one for one in fields), b"\r\n"])


def plain_fields(meant: Meant, token: str) -> list[Field]:
    """What a well-behaved client says, without the framing of a body."""
    fields = [
        (b"host", b"gateway.test"),
        (b"authorization", b"Bearer " + token.encode()),
        (b"accept", meant.media_type),
    ]
    return fields if meant.is_read else [*fields, (b"content-type", meant.body_is)]


def plain(meant: Meant, token: str, *more: Field) -> bytes:
    """The request by the letter."""
    fields = [*plain_fields(meant, token), *more]
    if not meant.is_read:
        fields.append((b"content-length", b"%d" % len(meant.body)))
    return head(b"%s %s HTTP/1.1" % (meant.method.encode(), meant.target), fields) + meant.body


def document(tag: str, media_type: bytes) -> bytes:
    """What the recording upstream answers: whose answer it is, and nothing more."""
    return b'{"note":"%s"}' % tag.encode() if media_type == JSON else b"<a><note>%s</note></a>" % tag.encode()
