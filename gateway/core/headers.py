"""Header fields: which are read, which are sent, and nothing else crosses.

Both ways an allow-list builds the head; no head is ever copied. The table `READ` is the whole of what the
gateway reads of a client's head: a field that is not in it cannot matter.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Headers, Representation, UpstreamRequest
from gateway.core.paths import Target

Fields = Mapping[bytes, bytes]


class Part(enum.Enum):
    """What a field has to do with a reply that is served from a slot.

    It CHOOSES whose reply it is or which, or is JOINED with the slot; it has NONE in a read; or it is for the
    ROAD to judge.
    """

    CHOOSES = enum.auto()
    JOINED = enum.auto()
    NONE = enum.auto()
    ROAD = enum.auto()


@dataclass(frozen=True, slots=True)
class Row:
    """How a field is read: as a list, joined when it comes in several lines (RFC 9110 §5.3), or as one."""

    is_list: bool
    part: Part


#: The request fields that are read at all.
READ: Mapping[bytes, Row] = {
    b"accept": Row(is_list=True, part=Part.CHOOSES),
    b"access-control-request-method": Row(is_list=False, part=Part.ROAD),
    b"authorization": Row(is_list=False, part=Part.CHOOSES),
    b"content-type": Row(is_list=False, part=Part.NONE),
    # Read for its number only: nothing is ever built from it.
    b"host": Row(is_list=False, part=Part.NONE),
    b"if-none-match": Row(is_list=True, part=Part.JOINED),
    b"last-event-id": Row(is_list=False, part=Part.ROAD),
    b"origin": Row(is_list=False, part=Part.CHOOSES),
    b"prefer": Row(is_list=True, part=Part.ROAD),
    # For traces only. A list, so that a doubled one is none (W3C Trace Context §3.2) instead of a mistake.
    b"traceparent": Row(is_list=True, part=Part.NONE),
    b"tracestate": Row(is_list=True, part=Part.NONE),
    # Believed as far as core.peers says: where tokens fail, and where chats start.
    b"x-forwarded-for": Row(is_list=True, part=Part.NONE),
    b"x-http-method-override": Row(is_list=False, part=Part.ROAD),
    b"x-request-id": Row(is_list=False, part=Part.JOINED),
}

#: How the gateway names itself in Via, Cache-Status and Proxy-Status, and to the upstream.
NAME = "chat-gateway"

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def read(raw: Iterable[tuple[bytes, bytes]]) -> Fields | Refusal:
    """The fields of the table, by lower-case name."""
    fields: dict[bytes, bytes] = {}
    for name, value in raw:
        row = READ.get(name)
        if row is None:
            continue
        if name not in fields:
            fields[name] = value.strip(b" \t")
        elif row.is_list:
            fields[name] += b", " + value.strip(b" \t")
        else:
            return Refusal(Reason.MALFORMED_HEADER)
    return fields


def request_id(fields: Fields) -> str | None:
    """The caller's X-Request-ID, where it has the shape of one."""
    given = fields.get(b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else None


def body_representation(fields: Fields) -> Representation | None:
    """What a body claims to be, by its media type; parameters such as charset are not looked at."""
    return media_type(fields.get(b"content-type"))


def media_type(content_type: bytes | None) -> Representation | None:
    """JSON, XML, or None for everything else."""
    name = (content_type or b"").partition(b";")[0].strip().lower()
    if name == b"application/json":
        return Representation.JSON
    return Representation.XML if name in {b"application/xml", b"text/xml"} else None


def dress(target: Target, body: bytes = b"", body_is: Representation | None = None) -> UpstreamRequest:
    """The upstream request of a target: byte-equal for every spelling of the same request."""
    fields = [
        (b"accept", target.representation.media_type),
        (b"accept-encoding", b"identity"),
        (b"user-agent", NAME.encode()),
    ]
    if body_is is not None:
        fields.append((b"content-type", body_is.media_type))
    if target.method == "PUT":
        # The vendor's pages: update is a POST that says so.
        fields.append((b"x-http-method-override", b"PUT"))
    return UpstreamRequest(
        target.account,
        "GET" if target.is_read else "POST",
        f"{target.path}?{target.query}".encode(),
        tuple(fields),
        body,
    )


#: What replies depend on; where CORS is configured, on Origin too.
VARY = b"Accept, Authorization"
VARY_WITH_CORS = VARY + b", Origin"


@dataclass(frozen=True, slots=True)
class Own:
    """What in a reply's head belongs to the request, not to the slot. `wall` is in epoch seconds."""

    request_id: str
    wall: float
    vary: bytes = VARY
    age_s: float | None = None
    cache_status: str | None = None
    proxy_status: str | None = None
    origin: bytes | None = None
    limits: bytes = b""


def lines(headers: Headers) -> bytes:
    """Header fields as they stand on the wire."""
    return b"".join([b"%s: %s\r\n" % pair for pair in headers])


def join(head: bytes, own: Own) -> bytes:
    """The whole head of a reply: the slot's lines, then those of the request's own fields."""
    age_s = None if own.age_s is None else int(own.age_s)
    told = told_lines(own.vary, age_s, own.cache_status, own.proxy_status, own.origin)
    return join_lines(head, own.wall, own.request_id.encode(), told, own.limits)


def join_lines(head: bytes, wall: float, request_id: bytes, told: bytes, limits: bytes) -> bytes:
    """What `join` does, for those who have the lines at hand."""
    return b"".join((head, _dated(int(wall)), request_id, told, limits))


# Most replies of a second differ in nothing but their ids and limits.
@functools.lru_cache(maxsize=4)
def _dated(wall_s: int) -> bytes:
    return b"date: %s\r\nvia: 1.1 %s\r\nx-request-id: " % (
        formatdate(wall_s, usegmt=True).encode(),
        NAME.encode(),
    )


@functools.lru_cache(maxsize=1024)
def told_lines(
    vary: bytes,
    age_s: int | None,
    cache_status: str | None,
    proxy_status: str | None,
    origin: bytes | None,
) -> bytes:
    """What follows a request's id: the end of its line, and how the reply came about."""
    fields = [(b"vary", vary)]
    if age_s is not None:
        fields.append((b"age", str(age_s).encode()))
    if cache_status is not None:
        fields.append((b"cache-status", f"{NAME}; {cache_status}".encode()))
    if proxy_status is not None:
        fields.append((b"proxy-status", f"{NAME}; {proxy_status}".encode()))
    if origin is not None:
        fields.append((b"access-control-allow-origin", origin))
        fields.append((b"access-control-expose-headers", EXPOSED))
    return b"\r\n" + lines(tuple(fields))


#: What a browser's script may read of a reply.
EXPOSED = (
    b"Age, Cache-Status, ETag, Location, Preference-Applied, Proxy-Status, RateLimit, RateLimit-Policy,"
    b" Retry-After, X-Request-ID"
)


def etag_matches(if_none_match: bytes | None, etag: bytes | None) -> bool:
    """Weak comparison against the list (RFC 9110 §13.1.2)."""
    if if_none_match is None or etag is None:
        return False
    if if_none_match == b"*":
        return True
    opaque = etag.removeprefix(b"W/")
    return opaque in _ENTITY_TAG.findall(if_none_match)


_ENTITY_TAG = re.compile(rb'"[\x21\x23-\x7e\x80-\xff]*"')
