"""Header fields: what is read, what is sent, and that nothing else crosses."""

from __future__ import annotations

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
    media_type,
    read,
    request_id,
)
from gateway.core.messages import Representation
from gateway.core.paths import Line, Target, locate
from tests.simulation import shipped

SINGLE = sorted(name for name, is_list in READ.items() if not is_list)
LISTS = sorted(name for name, is_list in READ.items() if is_list)
BASE = "/api/account/123/chat/H1-2K3"


def target(path: str, method: str = "GET", query: bytes = b"") -> Target:
    line = Line(method, path.encode(), query, None, None)
    found = locate(line, shipped().resources, {"123"}, Representation.JSON)
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
    assert request_id({b"x-request-id": given_id}, "fresh") == (given_id.decode() if kept else "fresh")


def test_a_request_without_an_id_gets_a_fresh_one() -> None:
    assert request_id({}, "fresh") == "fresh"


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
    found = locate(line, shipped().resources, {"123"}, Representation.JSON)
    assert isinstance(found, Target)
    assert (b"accept", b"application/xml") in dress(found).headers


# -- what is told --------------------------------------------------------------------------------------


def test_a_head_has_the_requests_own_fields_and_no_others() -> None:
    head = join(((b"etag", b'W/"a"'),), Own("id-1", 784111777.0))
    assert head == (
        (b"etag", b'W/"a"'),
        (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
        (b"via", b"1.1 chat-gateway"),
        (b"x-request-id", b"id-1"),
        (b"vary", b"Accept, Authorization"),
    )


def test_a_script_of_a_configured_origin_may_read_the_reply() -> None:
    head = dict(join((), Own("id-1", 0.0, origin=b"https://app.example")))
    assert head[b"access-control-allow-origin"] == b"https://app.example"
    assert b"ETag" in head[b"access-control-expose-headers"]
    assert b"access-control-allow-credentials" not in head


@pytest.mark.parametrize(("age_s", "told"), [(0.0, b"0"), (0.999, b"0"), (1.0, b"1"), (7.9, b"7")])
def test_age_is_whole_seconds(age_s: float, told: bytes) -> None:
    assert dict(join((), Own("id", 0.0, age_s=age_s)))[b"age"] == told


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
