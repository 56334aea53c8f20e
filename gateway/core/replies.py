"""What a client is told: one function from a result to a reply.

Outward fields: Age and Cache-Control (RFC 9111), Cache-Status (RFC 9211), Proxy-Status (RFC 9209),
problem documents (RFC 9457), 304 (RFC 9110 §15.4.5).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import assert_never

from gateway.core.access import Grant, Shadow
from gateway.core.answers import render
from gateway.core.errors import Reason, Refusal, problem
from gateway.core.freshness import Entry, Failed
from gateway.core.headers import NAME, Own, etag_matches, join, lines
from gateway.core.limits import UNCOUNTED, Standing
from gateway.core.messages import Headers, Representation
from gateway.core.paths import Target
from gateway.core.push import Stream
from gateway.core.requests import Request


class How(enum.Enum):
    """How an answer came to its client; the outcome in logs and metrics."""

    HIT = "hit"
    STALE = "stale"
    MISS = "miss"
    COLLAPSED = "collapsed"
    FORWARD = "forward"
    WRITE = "write"
    #: Held back until it changed, or for as long as its client would wait.
    WAITED = "waited"
    STREAM = "stream"


@dataclass(frozen=True, slots=True)
class Delivered:
    """An entry for the client; `instead_of` says which failure a stale one stands in for.

    `opened` tells whether the request had the upstream asked, for this answer or for the next.
    """

    entry: Entry
    how: How
    instead_of: Reason | None = None
    opened: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """The description of the public surface: OpenAPI, in JSON."""

    body: bytes = field(repr=False)


Result = Delivered | Described | Failed | Refusal


def outcome_of(result: Result) -> str:
    """How a request ended, in one word: the label in logs, metrics and traces."""
    match result:
        case Delivered():
            # `value` costs as much as a counter: it is a property written in Python.
            return result.how._value_
        case Described():
            return "description"
        case Failed() | Refusal():
            return result.reason.slug
        case _:
            assert_never(result)


@dataclass(frozen=True, slots=True)
class Trip:
    """How far a request came along the road, and how it ended.

    `client` and `rule` are known also where they led to a refusal. `standing` is what is left of the client's
    limits, `shadows` what clients in shadow mode would have said, `stream` what follows the reply's head.
    """

    result: Result
    target: Target | None = None
    grant: Grant | None = None
    client: str | None = None
    rule: str | None = None
    standing: Standing = UNCOUNTED
    shadows: tuple[Shadow, ...] = ()
    stream: Stream | None = None

    def charged(self, standing: Standing) -> Trip:
        """The same, and how the client stands after it."""
        # Written out: `replace` costs more than all the rest of the charging.
        return Trip(
            self.result, self.target, self.grant, self.client, self.rule, standing, self.shadows, self.stream
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, the head's lines, body; or instead of a body the messages of a stream."""

    status: int
    head: bytes = field(repr=False)
    body: bytes = field(repr=False)
    stream: Stream | None = field(default=None, repr=False)

    @property
    def headers(self) -> Headers:
        """The head, read."""
        fields = (line.partition(b": ") for line in self.head.split(b"\r\n")[:-1])
        return tuple((name, value) for name, _, value in fields)


def wire(status: int, head: bytes, body: bytes, *, is_last: bool = False) -> bytes:
    """A whole HTTP/1.1 response; the `is_last` one says that the connection closes after it."""
    return b"".join((_STATUS_LINES[status], head, _CLOSE if is_last else b"\r\n", body))


_PHRASES = {one.value: one.phrase for one in HTTPStatus}
_STATUS_LINES = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)
}
_CLOSE = b"connection: close\r\n\r\n"


def reply(trip: Trip, request: Request, default: Representation, now: float, wall: float) -> Reply:
    """The reply to a trip's end, at `now` (monotonic) and `wall` (epoch) seconds.

    `default` is the representation of problem documents for those who name none.
    """
    result = trip.result
    match result:
        case Delivered():
            made = _delivered(result, trip, request, now, wall)
        case Described(body):
            head = (*_OF_DESCRIPTIONS, (b"content-length", str(len(body)).encode()))
            made = Reply(200, join(lines(head), _own(trip, request, wall)), body)
        case Failed(reason, received, retry_after_s):
            own = _own(trip, request, wall, proxy_status=_proxy_status(reason, received))
            refusal = Refusal(reason, retry_after_s=retry_after_s)
            made = _problem(refusal, request.problem_representation(default), own)
        case Refusal():
            made = _problem(result, request.problem_representation(default), _own(trip, request, wall))
        case _:
            assert_never(result)
    return Reply(made.status, made.head, b"") if request.method == "HEAD" else made


def _delivered(result: Delivered, trip: Trip, request: Request, now: float, wall: float) -> Reply:
    target, grant = trip.target, trip.grant
    if target is None or grant is None:
        raise AssertionError("an entry was delivered without a grant")
    slot = render(result.entry, grant.view, target)
    if result.how is How.STREAM:
        return _streamed(trip, _own(trip, request, wall))
    age_s = result.entry.age(now) if target.is_read else None
    own = _own(trip, request, wall, age_s=age_s, cache_status=_cache_status(result, now))
    applied = _APPLIED if result.how is How.WAITED else b""
    if target.is_read and etag_matches(request.fields.get(b"if-none-match"), slot.etag):
        return Reply(304, join(slot.head_304 + applied, own), b"")
    return Reply(slot.status, join(slot.head + applied, own), slot.body)


def _streamed(trip: Trip, own: Own) -> Reply:
    """The head of a stream, without a stream for those who asked for the head only."""
    if trip.stream is not None and trip.stream.is_over:
        # On nothing else do browsers give up coming back.
        return Reply(204, join(lines(_OF_STREAMS[1:]), own), b"")
    return Reply(200, join(lines(_OF_STREAMS), own), b"", trip.stream)


_OF_STREAMS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # nginx would gather what follows.
    (b"x-accel-buffering", b"no"),
)
_OF_DESCRIPTIONS = ((b"content-type", b"application/json"), (b"cache-control", b"private, no-cache"))
_APPLIED = lines(((b"preference-applied", b"wait"),))  # RFC 7240 §3


def _own(
    trip: Trip,
    request: Request,
    wall: float,
    *,
    age_s: float | None = None,
    cache_status: str | None = None,
    proxy_status: str | None = None,
) -> Own:
    return Own(
        request.id,
        wall,
        request.vary,
        age_s,
        cache_status,
        proxy_status,
        request.origin,
        trip.standing.lines,
    )


def hit_status(fresh_until: float, now: float) -> str:
    """The Cache-Status of what was found, but for our name."""
    # It was fresh when it was looked at, be it by a microsecond.
    return f"hit; ttl={max(0, math.floor(fresh_until - now))}"


def _cache_status(result: Delivered, now: float) -> str:
    entry = result.entry
    status = entry.answer.status
    match result.how:
        case How.HIT:
            return hit_status(entry.fresh_until, now)
        case How.STALE | How.WAITED:
            because = "" if result.instead_of is None else f"; detail={result.instead_of.slug}"
            ttl_s = math.floor(entry.fresh_until - now)
            return f"hit; ttl={min(-1, ttl_s) if result.how is How.STALE else ttl_s}{because}"
        case How.MISS:
            stored = "; stored" if entry.fresh_until > entry.sent_at else ""
            return f"fwd=miss; fwd-status={status}{stored}"
        case How.COLLAPSED:
            return f"fwd=miss; fwd-status={status}; collapsed"
        case How.FORWARD:
            return f"fwd=bypass; fwd-status={status}"
        case How.WRITE:
            return f"fwd=method; fwd-status={status}"
        case How.STREAM:
            raise AssertionError("a stream is no kept answer")
        case _:
            assert_never(result.how)


# RFC 9209 §2.3; what the registry has no type for goes by its status alone.
_PROXY_ERRORS = {
    Reason.CRASHED: "proxy_internal_error",
    Reason.DRAINING: "proxy_internal_response",
    Reason.KEY_REFUSED: "proxy_configuration_error",
    Reason.UPSTREAM_BROKEN: "http_protocol_error",
    Reason.UPSTREAM_BUSY: "connection_limit_reached",
    Reason.UPSTREAM_DOWN: "destination_unavailable",
    Reason.UPSTREAM_MISMATCH: "http_protocol_error",
    Reason.UPSTREAM_REDIRECT: "http_protocol_error",
    Reason.UPSTREAM_RESET: "connection_terminated",
    Reason.UPSTREAM_THROTTLED: "destination_unavailable",
    Reason.UPSTREAM_TIMEOUT: "http_response_timeout",
    Reason.UPSTREAM_UNREACHABLE: "destination_unavailable",
}


def _proxy_status(reason: Reason, received: int | None) -> str | None:
    parts = [f"error={_PROXY_ERRORS[reason]}"] if reason in _PROXY_ERRORS else []
    if received is not None:
        parts.append(f"received-status={received}")
    return "; ".join(parts) or None


def _problem(refusal: Refusal, representation: Representation, own: Own) -> Reply:
    reason = refusal.reason
    content_type, body = problem(reason, representation, own.request_id, refusal.violated)
    head = [
        (b"content-type", content_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.retry_after_s is not None:
        head.append((b"retry-after", str(max(1, math.ceil(refusal.retry_after_s))).encode()))
    if refusal.allow:
        head.append((b"allow", ", ".join(refusal.allow).encode()))
    challenge = _CHALLENGES.get(reason.status)
    if challenge is not None:
        head.append((b"www-authenticate", _REALM if reason is Reason.TOKEN_MISSING else challenge))
    return Reply(reason.status, join(lines(tuple(head)), own), body)


# RFC 6750 §3: no error code where no token was sent.
_REALM = f'Bearer realm="{NAME}"'.encode()
_CHALLENGES = {401: _REALM + b', error="invalid_token"', 403: _REALM + b', error="insufficient_scope"'}
