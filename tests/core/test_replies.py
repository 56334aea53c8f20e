"""What a client is told, read as another implementation would read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.access import DeadWhen, Grant
from gateway.core.documents import Document
from gateway.core.errors import Reason, Refusal
from gateway.core.freshness import Entry, Failed
from gateway.core.limits import Standing
from gateway.core.messages import Answer, Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.policy import Client
from gateway.core.push import Sink, Stream
from gateway.core.replies import Delivered, How, Reply, Result, Trip, reply
from gateway.core.requests import Request
from tests.simulation import shipped

PATH = "/api/account/123/chat/H1-2K3"
GRANT = Grant(Client("bff", (), None, ()), "bff/allow/chat:read", DeadWhen(0.0, 1))
BODY = b'{"info": {"state": "chatting"}}'
ENTRY = Entry(Answer(200, ((b"content-type", b"application/json"),), BODY), (0, 0), 10.0, 10.8, 11.0, 16.0)


def fresh(**but: Any) -> Entry:
    """ENTRY, but for that, and not rendered yet."""
    return replace(ENTRY, slots={}, **but)


Item = tuple[str, dict[str, object]]

_ITEM = re.compile(r"([A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*)((?:; ?[a-z*][a-z0-9_.*-]*(?:=[^;,]*)?)*)")
_BARE = {
    r"-?[0-9]{1,15}": int,
    r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+.^_`|~-]*": str,
}


def structured(field: str) -> Item:
    """A list of one token with parameters, strictly as RFC 9651 has it."""
    match = _ITEM.fullmatch(field)
    assert match is not None, field
    parameters: dict[str, object] = {}
    for parameter in filter(None, match[2].split(";")):
        name, equals, text = parameter.strip(" ").partition("=")
        assert name not in parameters
        parameters[name] = bare(text) if equals else True
    return match[1], parameters


def bare(text: str) -> object:
    kind = next(kind for pattern, kind in _BARE.items() if re.fullmatch(pattern, text))
    return kind(text)


def target(rest: str = "/info", method: str = "GET") -> Target:
    line = Line(method, f"{PATH}{rest}".encode(), b"", None, None)
    found = locate(line, shipped(), {"123"}, Representation.JSON)
    assert isinstance(found, Target)
    return found


def told(
    result: Result,
    *,
    method: str = "GET",
    fields: Mapping[bytes, bytes] | None = None,
    of: Target | None = None,
    now: float = 10.5,
    origin: bytes | None = None,
    stream: Stream | None = None,
) -> Reply:
    async def body(_: int) -> bytes:
        return b""

    request = Request("id-1", method, f"{PATH}/info".encode(), b"", fields or {}, body, origin)
    trip = Trip(result, of or target(), GRANT, stream=stream)
    return reply(trip, request, Representation.JSON, now, 784111777.0)


def fields_of(made: Reply) -> dict[str, str]:
    fields = {name.decode(): value.decode() for name, value in made.headers}
    assert len(fields) == len(made.headers), "each field once"
    return fields


# -- Cache-Status (RFC 9211), Age ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "entry", "now", "expected"),
    [
        (How.HIT, ENTRY, 10.5, {"hit": True, "ttl": 0}),
        (How.HIT, fresh(fresh_until=14.0), 10.5, {"hit": True, "ttl": 3}),
        (How.STALE, ENTRY, 11.0, {"hit": True, "ttl": -1}),
        (How.STALE, ENTRY, 14.5, {"hit": True, "ttl": -4}),
        (How.MISS, ENTRY, 10.5, {"fwd": "miss", "fwd-status": 200, "stored": True}),
        (How.MISS, fresh(fresh_until=10.0), 10.5, {"fwd": "miss", "fwd-status": 200}),
        (How.COLLAPSED, ENTRY, 10.5, {"fwd": "miss", "fwd-status": 200, "collapsed": True}),
        (How.FORWARD, ENTRY, 10.5, {"fwd": "bypass", "fwd-status": 200}),
        (How.WRITE, ENTRY, 10.5, {"fwd": "method", "fwd-status": 200}),
        (How.WAITED, fresh(fresh_until=14.0), 10.5, {"hit": True, "ttl": 3}),
    ],
)
def test_cache_status_says_how_it_came(
    how: How, entry: Entry, now: float, expected: Mapping[str, object]
) -> None:
    fields = fields_of(told(Delivered(entry, how), now=now))
    assert structured(fields["cache-status"]) == ("chat-gateway", expected)


@pytest.mark.parametrize("reason", Reason)
def test_a_stale_answer_says_what_it_stands_in_for(reason: Reason) -> None:
    fields = fields_of(told(Delivered(ENTRY, How.STALE, reason), now=12.0))
    assert structured(fields["cache-status"])[1] == {"hit": True, "ttl": -1, "detail": reason.slug}


@pytest.mark.parametrize(("now", "age"), [(10.0, "0"), (10.99, "0"), (11.0, "1"), (15.5, "5"), (9.0, "0")])
def test_age_is_a_whole_number_from_when_it_was_asked_for(now: float, age: str) -> None:
    assert fields_of(told(Delivered(ENTRY, How.HIT), now=now))["age"] == age


def test_a_writes_answer_has_no_age_and_no_tag() -> None:
    fields = fields_of(told(Delivered(fresh(), How.WRITE), of=target("/info/visitorName", "PUT")))
    assert not {"age", "etag"} & fields.keys()
    assert fields["cache-control"] == "no-store"


def test_every_reply_names_itself_its_time_and_its_request() -> None:
    for result in (Delivered(ENTRY, How.HIT), Failed(Reason.UPSTREAM_ERROR), Refusal(Reason.NO_CLIENT)):
        fields = fields_of(told(result))
        assert fields["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
        assert (fields["via"], fields["x-request-id"]) == ("1.1 chat-gateway", "id-1")
        assert {name.strip() for name in fields["vary"].split(",")} >= {"Accept", "Authorization"}


def test_a_configured_origin_is_told_so_on_every_reply() -> None:
    for result in (Delivered(ENTRY, How.HIT), Failed(Reason.UPSTREAM_ERROR), Refusal(Reason.NO_CLIENT)):
        fields = fields_of(told(result, origin=b"https://app.example"))
        assert fields["access-control-allow-origin"] == "https://app.example"


# -- HEAD and 304 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        Delivered(ENTRY, How.HIT),
        Delivered(fresh(answer=Answer(404, (), b"{}")), How.HIT),
        Failed(Reason.UPSTREAM_THROTTLED, 429, 2.0),
        Refusal(Reason.TOKEN_MISSING),
    ],
)
def test_a_head_is_a_get_without_its_body(result: Result) -> None:
    got, head = told(result), told(result, method="HEAD")
    assert (head.status, head.headers, head.body) == (got.status, got.headers, b"")
    assert fields_of(head)["content-length"] == str(len(got.body))


def test_304_has_no_body_and_what_the_200_would_say_of_caching() -> None:
    full = fields_of(told(Delivered(ENTRY, How.HIT)))
    for method in ("GET", "HEAD"):
        made = told(
            Delivered(ENTRY, How.HIT), method=method, fields={b"if-none-match": full["etag"].encode()}
        )
        fields = fields_of(made)
        assert (made.status, made.body) == (304, b"")
        for name in ("etag", "cache-control", "vary", "date", "age", "cache-status"):
            assert fields[name] == full[name]
        assert not {"content-type", "content-length"} & fields.keys()


@pytest.mark.parametrize("tag", [b'"other"', b"", b'W/"'])
def test_another_tag_gets_the_whole(tag: bytes) -> None:
    assert told(Delivered(ENTRY, How.HIT), fields={b"if-none-match": tag}).status == 200


def test_a_write_and_an_error_are_never_304() -> None:
    fields = {b"if-none-match": b"*"}
    assert (
        told(Delivered(ENTRY, How.WRITE), of=target("/info/visitorName", "PUT"), fields=fields).status == 200
    )
    gone = replace(ENTRY, answer=Answer(404, (), b"{}"), slots={})
    assert told(Delivered(gone, How.HIT), fields=fields).status == 404


# -- problems ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accept", [None, b"application/xml"])
@pytest.mark.parametrize("reason", Reason)
def test_a_refusal_is_a_problem_document(reason: Reason, accept: bytes | None) -> None:
    made = told(Refusal(reason), fields={} if accept is None else {b"accept": accept})
    fields = fields_of(made)
    assert made.status == reason.status
    assert fields["cache-control"] == "no-store"
    assert fields["content-length"] == str(len(made.body))
    assert not {"age", "etag", "cache-status"} & fields.keys()
    if accept is None:
        assert fields["content-type"] == "application/problem+json"
        said = json.loads(made.body)
        assert (said["type"], said["status"], said["request_id"]) == (reason.type, reason.status, "id-1")
    else:
        assert fields["content-type"] == "application/problem+xml"
        Document.parse(made.body, Representation.XML, strict=True)


@pytest.mark.parametrize("accept", [b"image/png", b"*/*", b""])
def test_who_asked_for_neither_gets_json(accept: bytes) -> None:
    fields = fields_of(told(Refusal(Reason.NOT_ACCEPTABLE), fields={b"accept": accept}))
    assert fields["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("reason", "challenge"),
    [
        (Reason.TOKEN_MISSING, 'Bearer realm="chat-gateway"'),
        (Reason.TOKEN_INVALID, 'Bearer realm="chat-gateway", error="invalid_token"'),
        (Reason.TOKEN_EXPIRED, 'Bearer realm="chat-gateway", error="invalid_token"'),
    ],
)
def test_401_has_a_challenge(reason: Reason, challenge: str) -> None:
    assert fields_of(told(Refusal(reason)))["www-authenticate"] == challenge


def test_only_401_and_403_have_a_challenge() -> None:
    for reason in Reason:
        challenged = "www-authenticate" in fields_of(told(Refusal(reason)))
        assert challenged is (reason.status in {401, 403})


def test_403_says_that_the_token_does_not_reach_so_far() -> None:
    challenge = fields_of(told(Refusal(Reason.ACTION_DENIED)))["www-authenticate"]
    assert challenge == 'Bearer realm="chat-gateway", error="insufficient_scope"'


def test_429_names_what_was_violated() -> None:
    standing = Standing(violated=("requests", "info.requests"))
    refusal = Refusal(Reason.RATE_LIMITED, standing=standing, retry_after_s=1.5)
    made = told(refusal)
    assert json.loads(made.body)["violated-policies"] == ["requests", "info.requests"]
    assert fields_of(made)["retry-after"] == "2"
    in_xml = told(refusal, fields={b"accept": b"application/xml"})
    assert b"<violated-policies><i>requests</i><i>info.requests</i></violated-policies>" in in_xml.body


def test_405_names_what_is_allowed() -> None:
    made = told(Refusal(Reason.METHOD_NOT_ALLOWED, allow=("GET", "HEAD")))
    assert fields_of(made)["allow"] == "GET, HEAD"


@pytest.mark.parametrize(
    ("seconds", "told_seconds"),
    [(0.0, "1"), (0.1, "1"), (1.0, "1"), (1.1, "2"), (5.0, "5"), (None, None)],
)
def test_retry_after_is_whole_seconds_and_never_too_few(
    seconds: float | None, told_seconds: str | None
) -> None:
    fields = fields_of(told(Failed(Reason.UPSTREAM_THROTTLED, 429, seconds)))
    assert fields.get("retry-after") == told_seconds


# -- Proxy-Status (RFC 9209) ---------------------------------------------------------------------------

#: The registry of RFC 9209 §2.3, as far as it can be about the way to an upstream.
PROXY_ERRORS = {
    "connection_limit_reached",
    "connection_refused",
    "connection_terminated",
    "connection_timeout",
    "destination_unavailable",
    "http_protocol_error",
    "http_response_incomplete",
    "http_response_timeout",
    "proxy_configuration_error",
    "proxy_internal_error",
    "proxy_internal_response",
}
#: Of the gateway itself: nobody behind it has to do with them.
OURS = {
    Reason.KEYS_UNAVAILABLE,
    Reason.OVERLOADED,
    Reason.POLICIES_CHANGED,
    Reason.TOO_MANY_CONNECTIONS,
}
FAILURES = [reason for reason in Reason if reason.status >= 500 and reason not in OURS]


@pytest.mark.parametrize("received", [None, 503])
@pytest.mark.parametrize("reason", FAILURES)
def test_proxy_status_says_what_went_wrong_behind(reason: Reason, received: int | None) -> None:
    fields = fields_of(told(Failed(reason, received)))
    if "proxy-status" not in fields:
        assert reason is Reason.UPSTREAM_ERROR
        assert received is None
        return
    name, parameters = structured(fields["proxy-status"])
    assert name == "chat-gateway"
    assert parameters.get("error", "destination_unavailable") in PROXY_ERRORS
    assert parameters.get("received-status") == received
    assert parameters.keys() <= {"error", "received-status"}


@pytest.mark.parametrize("reason", [Reason.NO_CLIENT, *sorted(OURS, key=lambda reason: reason.slug)])
def test_a_refusal_says_nothing_of_the_upstream(reason: Reason) -> None:
    assert "proxy-status" not in fields_of(told(Refusal(reason)))


# -- long polls, and streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", [False, True])
def test_a_long_poll_is_told_that_it_was_one(*, seen: bool) -> None:
    etag = fields_of(told(Delivered(ENTRY, How.HIT)))["etag"]
    fields = {b"if-none-match": etag.encode()} if seen else {}
    made = told(Delivered(ENTRY, How.WAITED), fields=fields)
    assert made.status == (304 if seen else 200)
    assert fields_of(made)["preference-applied"] == "wait"
    assert "preference-applied" not in fields_of(told(Delivered(ENTRY, How.HIT), fields=fields))


class NoStream:
    """One that is never begun."""

    def __init__(self, *, is_over: bool) -> None:
        self.is_over = is_over

    def begin(self, sink: Sink) -> None:
        raise AssertionError(sink)

    def lost(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("stream", "status"), [(NoStream(is_over=False), 200), (NoStream(is_over=True), 204)]
)
def test_a_streams_head_says_nothing_of_its_length(stream: Stream, status: int) -> None:
    made = told(Delivered(ENTRY, How.STREAM), stream=stream)
    assert (made.status, made.body) == (status, b"")
    fields = fields_of(made)
    assert fields.get("content-type") == ("text/event-stream" if status == 200 else None)
    assert fields["cache-control"] == "no-store"
    assert not {"content-length", "etag", "age", "cache-status"} & fields.keys()
    assert (made.stream is stream) == (status == 200), "on nothing else than a 204 do browsers give up"


def test_the_head_of_a_stream_is_for_the_asking() -> None:
    made = told(Delivered(ENTRY, How.STREAM), method="HEAD")
    assert (made.status, made.stream, made.body) == (200, None, b"")
    assert fields_of(made)["content-type"] == "text/event-stream"


@pytest.mark.parametrize(
    ("prefer", "wait_s"),
    [
        (b"wait=20", 20),
        (b"respond-async, wait=5", 5),
        (b'Wait = "7"', 7),
        (b"wait=20; x=y, foo", 20),
        (b"wait=0", 0),
        # More than anybody is let wait, and no number without end.
        (b"wait=9999999999", 9999),
        (b"", None),
        (b"await=20", None),
        (b"wait", None),
        (b"wait=-1", None),
        (b"wait=1.5", None),
        (b"wait=20s", None),
        (b"foo; wait=20", None),
        (None, None),
    ],
)
def test_how_long_a_client_would_wait(prefer: bytes | None, wait_s: int | None) -> None:
    async def body(_: int) -> bytes:
        return b""

    fields = {} if prefer is None else {b"prefer": prefer}
    assert Request("id-1", "GET", b"/", b"", fields, body).wait_s == wait_s
