"""Header fields: what is read, what is sent, and that nothing else crosses."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import Reason, Refusal
from gateway.core.headers import (
    READ,
    Own,
    body_representation,
    dress,
    etag_matches,
    join,
    lines,
    media_type,
    read,
    request_id,
)
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from gateway.core.replies import Reply
from tests.simulation import shipped

SINGLE = sorted(name for name, row in READ.items() if not row.is_list)
LISTS = sorted(name for name, row in READ.items() if row.is_list)
BASE = "/api/account/123/chat/H1-2K3"


def target(path: str, method: str = "GET", query: bytes = b"") -> Target:
    line = Line(method, path.encode(), query, None, None)
    found = locate(line, shipped(), {"123"}, Representation.JSON)
    assert isinstance(found, Target)
    return found


# -- what is read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("value", [b"same", b"other", b""])
def test_a_field_that_must_be_single_is_refused_twice(name: bytes, value: bytes) -> None:
    assert read([(name, b"same"), (name, value)]) == Refusal(Reason.MALFORMED_HEADER)


@pytest.mark.parametrize("name", LISTS)
def test_a_list_in_several_lines_is_one_list(name: bytes) -> None:
    assert read([(name, b"a "), (b"x-other", b"1"), (name, b"\tb")]) == {name: b"a, b"}


def test_the_fields_that_hold_credentials_or_choose_the_method_are_single() -> None:
    assert {b"authorization", b"x-http-method-override", b"content-type"} <= set(SINGLE)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"cookie", b"x-forwarded-host", b"range", b"cache-control"])
            | st.binary(min_size=1).filter(lambda name: name not in READ),
            st.binary(),
        )
    )
)
def test_a_field_that_is_not_in_the_table_cannot_matter(fields: list[tuple[bytes, bytes]]) -> None:
    assert read([*fields, (b"accept", b"*/*"), *fields]) == {b"accept": b"*/*"}


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [
        (b"a", True),
        (b"A9._-", True),
        (b"0af7651916cd43dd8448eb211c80319c", True),
        (b"a" * 64, True),
        (b"a" * 65, False),
        (b"", False),
        (b"a b", False),
        (b"a\n", False),
        (b"a/b", False),
        (b'"a"', False),
        (b"<a>", False),
        ("\u00e9".encode(), False),
    ],
)
def test_a_request_id_is_kept_where_it_has_the_shape_of_one(given_id: bytes, kept: bool) -> None:
    assert request_id({b"x-request-id": given_id}) == (given_id.decode() if kept else None)


def test_a_request_without_an_id_has_none() -> None:
    assert request_id({}) is None


@pytest.mark.parametrize(
    ("content_type", "representation"),
    [
        (b"application/json", Representation.JSON),
        (b"Application/JSON; charset=utf-8", Representation.JSON),
        (b" application/json ;x", Representation.JSON),
        (b"application/xml", Representation.XML),
        (b"text/xml;charset=iso-8859-1", Representation.XML),
        (b"text/json", None),
        (b"application/problem+json", None),
        (b"application/x-www-form-urlencoded", None),
        (b"", None),
        (None, None),
    ],
)
def test_what_a_body_claims_to_be(content_type: bytes | None, representation: Representation | None) -> None:
    assert media_type(content_type) is representation
    fields = {} if content_type is None else {b"content-type": content_type}
    assert body_representation(fields) is representation


# -- what is sent --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "method", "sent_as", "override"),
    [
        (f"{BASE}/info", "GET", "GET", False),
        (f"{BASE}/info", "HEAD", "GET", False),
        (f"{BASE}/events", "POST", "POST", False),
        (f"{BASE}/info/visitorName", "PUT", "POST", True),
    ],
)
def test_the_upstream_request_is_built_from_the_target(
    path: str, method: str, sent_as: str, override: bool
) -> None:
    is_write = sent_as == "POST"
    body, body_is = (b"{}", Representation.XML) if is_write else (b"", None)
    sent = dress(target(path, method, b"NC=false&appKey=x"), body, body_is)
    expected = {
        b"accept": b"application/json",
        b"accept-encoding": b"identity",
        b"user-agent": b"chat-gateway",
    }
    expected |= {b"content-type": b"application/xml"} if is_write else {}
    expected |= {b"x-http-method-override": b"PUT"} if override else {}
    assert (sent.method, sent.account, sent.body) == (sent_as, "123", body)
    assert sent.target == f"{path}?v=1&NC=false".encode()
    assert dict(sent.headers) == expected
    assert len(sent.headers) == len(expected)


def test_xml_is_asked_for_by_accept() -> None:
    line = Line("GET", f"{BASE}/info".encode(), b"", b"text/xml", None)
    found = locate(line, shipped(), {"123"}, Representation.JSON)
    assert isinstance(found, Target)
    assert (b"accept", b"application/xml") in dress(found).headers


# -- what is told --------------------------------------------------------------------------------------


def told(own: Own) -> dict[bytes, bytes]:
    fields = Reply(200, join(b"", own), b"").headers
    assert len(dict(fields)) == len(fields)
    return dict(fields)


def test_a_head_has_the_requests_own_fields_and_no_others() -> None:
    head = join(lines(((b"etag", b'W/"a"'),)), Own("id-1", 784111777.0))
    assert head == (
        b'etag: W/"a"\r\n'
        b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        b"via: 1.1 chat-gateway\r\n"
        b"x-request-id: id-1\r\n"
        b"vary: Accept, Authorization\r\n"
    )


def test_a_head_with_everything_is_in_order() -> None:
    own = Own("id", 784111777.9, b"*", 7.9, "hit; ttl=1", "error=x", b"https://app", b"ratelimit: r\r\n")
    assert [line.partition(b": ")[0] for line in join(b"a: b\r\n", own).splitlines()] == [
        *(b"a", b"date", b"via", b"x-request-id", b"vary", b"age", b"cache-status", b"proxy-status"),
        *(b"access-control-allow-origin", b"access-control-expose-headers", b"ratelimit"),
    ]


@pytest.mark.parametrize("wall", [0.0, 0.999, 1.0, 1_800_000_000.0, 1_800_000_000.999_999, 1_800_000_001.0])
def test_the_date_is_that_of_the_second(wall: float) -> None:
    assert told(Own("id", wall))[b"date"] == formatdate(int(wall), usegmt=True).encode()


def test_a_script_of_a_configured_origin_may_read_the_reply() -> None:
    head = told(Own("id-1", 0.0, origin=b"https://app.example"))
    assert head[b"access-control-allow-origin"] == b"https://app.example"
    assert b"ETag" in head[b"access-control-expose-headers"]
    assert b"access-control-allow-credentials" not in head


@pytest.mark.parametrize(("age_s", "age"), [(0.0, b"0"), (0.999, b"0"), (1.0, b"1"), (7.9, b"7")])
def test_age_is_whole_seconds(age_s: float, age: bytes) -> None:
    assert told(Own("id", 0.0, age_s=age_s))[b"age"] == age


# -- If-None-Match -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("if_none_match", "matches"),
    [
        (b'W/"abc"', True),
        (b'"abc"', True),
        (b'"x", W/"abc"', True),
        (b'W/"abc","x"', True),
        (b'"x","abc","y"', True),
        (b"*", True),
        (b'"ABC"', False),
        (b'"abc', False),
        (b"abc", False),
        (b"W/abc", False),
        (b'"xabc"', False),
        (b'"x", "y"', False),
        (b'"", "x"', False),
        (b"", False),
        (None, False),
    ],
)
def test_entity_tags_are_compared_weakly(if_none_match: bytes | None, matches: bool) -> None:
    assert etag_matches(if_none_match, b'W/"abc"') is matches


@pytest.mark.parametrize("if_none_match", [b"*", b'"abc"', None])
def test_what_has_no_tag_matches_nothing(if_none_match: bytes | None) -> None:
    assert etag_matches(if_none_match, None) is False


@given(st.lists(st.binary()))
def test_no_if_none_match_raises(parts: list[bytes]) -> None:
    etag_matches(b'"'.join(parts), b'W/"abc"')
