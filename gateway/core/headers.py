"""Header fields: which are read, which are sent, and nothing else crosses.

Both ways an allow-list builds the head; no head is ever copied. The table `READ` is the whole of what the
gateway reads of a client's head: a field that is not in it cannot matter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Headers, Representation, UpstreamRequest
from gateway.core.paths import Target

Fields = Mapping[bytes, bytes]

#: The request fields that are read at all. True: a list, joined when it comes in several lines
#: (RFC 9110 §5.3); False: a field that must be single.
READ: Mapping[bytes, bool] = {
    b"accept": True,
    b"access-control-request-method": False,
    b"authorization": False,
    b"content-type": False,
    # Read for its number only: nothing is ever built from it.
    b"host": False,
    b"if-none-match": True,
    b"origin": False,
    # Believed as far as core.peers says.
    b"x-forwarded-for": True,
    b"x-http-method-override": False,
    b"x-request-id": False,
}

#: How the gateway names itself in Via, Cache-Status and Proxy-Status, and to the upstream.
NAME = "chat-gateway"

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


def read(raw: Iterable[tuple[bytes, bytes]]) -> Fields | Refusal:
    """The fields of the table, by lower-case name."""
    fields: dict[bytes, bytes] = {}
    for name, value in raw:
        is_list = READ.get(name)
        if is_list is None:
            continue
        if name not in fields:
            fields[name] = value.strip(b" \t")
        elif is_list:
            fields[name] += b", " + value.strip(b" \t")
        else:
            return Refusal(Reason.MALFORMED_HEADER)
    return fields


def request_id(fields: Fields, fresh: str) -> str:
    """The caller's X-Request-ID where it has the shape of one, else the fresh one."""
    given = fields.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else fresh


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
    limits: Headers = ()


def join(head: Headers, own: Own) -> Headers:
    """The whole head of a reply: the slot's part, then the request's own fields."""
    fields = [
        (b"date", formatdate(own.wall, usegmt=True).encode()),
        (b"via", b"1.1 " + NAME.encode()),
        (b"x-request-id", own.request_id.encode()),
        (b"vary", own.vary),
    ]
    if own.age_s is not None:
        fields.append((b"age", str(int(own.age_s)).encode()))
    if own.cache_status is not None:
        fields.append((b"cache-status", f"{NAME}; {own.cache_status}".encode()))
    if own.proxy_status is not None:
        fields.append((b"proxy-status", f"{NAME}; {own.proxy_status}".encode()))
    if own.origin is not None:
        fields.append((b"access-control-allow-origin", own.origin))
        fields.append((b"access-control-expose-headers", EXPOSED))
    return head + tuple(fields) + own.limits


#: What a browser's script may read of a reply.
EXPOSED = (
    b"Age, Cache-Status, ETag, Location, Proxy-Status, RateLimit, RateLimit-Policy, Retry-After, X-Request-ID"
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
