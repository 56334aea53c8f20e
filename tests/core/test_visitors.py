"""The visitor's address: when it is asked for, and that writing it in changes nothing else."""

from __future__ import annotations

import json
from html import escape
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.documents import Document, Element, well_formed
from gateway.core.errors import Reason, Refusal
from gateway.core.messages import Representation
from gateway.core.policy import VisitorIp
from gateway.core.visitors import with_visitor_ip

JSON, XML = Representation.JSON, Representation.XML
PASS, REQUIRE, FROM_FORWARDED = VisitorIp.PASS, VisitorIp.REQUIRE, VisitorIp.FROM_FORWARDED
MISSING = Refusal(Reason.VISITOR_IP_MISSING)
FORWARDED = "2001:db8::7"

WITH_AN_ADDRESS = [
    (JSON, b'{"request":{"visitorIp":"192.0.2.1"}}'),
    (JSON, b'{"request":{"skill":"x","visitorIp":"2001:db8::1"},"more":[]}'),
    (JSON, b'{"\\u0072equest":{"visitor\\u0049p":"192.0.2.\\u0031"}}'),
    (XML, b"<request><visitorIp>192.0.2.1</visitorIp></request>"),
    (XML, b"<q:request xmlns:q='urn:q'><skill/><q:visitorIp>2001:db8::1</q:visitorIp></q:request>"),
    (XML, b"<request><visitorIp>192.0<!-- . -->.2<![CDATA[.]]>&#49;</visitorIp></request>"),
]
WITHOUT = [
    (JSON, b'{"request":{}}', b'{"request":{"visitorIp":"2001:db8::7"}}'),
    (JSON, b' { "request" :\r\n{ \n} }', b' { "request" :\r\n{"visitorIp":"2001:db8::7" \n} }'),
    (JSON, b'{"request":{"skill":"x"}}', b'{"request":{"visitorIp":"2001:db8::7","skill":"x"}}'),
    (
        JSON,
        b'{"\\u0072equest":{"a":{"visitorIp":"192.0.2.1"}}}',
        b'{"\\u0072equest":{"visitorIp":"2001:db8::7","a":{"visitorIp":"192.0.2.1"}}}',
    ),
    (
        JSON,
        b'{"a":{"request":{}},"b":[{"request":{}}],"c":"\\"request\\":{","request":{}}',
        b'{"a":{"request":{}},"b":[{"request":{}}],"c":"\\"request\\":{","request":{"visitorIp":"2001:db8::7"}}',
    ),
    (XML, b"<request/>", b"<request><visitorIp>2001:db8::7</visitorIp></request>"),
    (XML, b"<request />", b"<request ><visitorIp>2001:db8::7</visitorIp></request>"),
    (XML, b"<request></request>", b"<request><visitorIp>2001:db8::7</visitorIp></request>"),
    (
        XML,
        b"\xef\xbb\xbf<?xml version='1.0'?><!-- <request> --><q:request a='>' b=\"/>\">\n <b/></q:request>",
        b"\xef\xbb\xbf<?xml version='1.0'?><!-- <request> --><q:request a='>' b=\"/>\">%b\n <b/></q:request>"
        % b"<q:visitorIp>2001:db8::7</q:visitorIp>",
    ),
    (
        XML,
        b"<?a <request> ?><q:request xmlns:q='urn:q'\n/>",
        b"<?a <request> ?><q:request xmlns:q='urn:q'\n><q:visitorIp>2001:db8::7</q:visitorIp></q:request>",
    ),
    (
        XML,
        b"<request visitorIp='192.0.2.1'><a><visitorIp>192.0.2.1</visitorIp></a></request>",
        b"<request visitorIp='192.0.2.1'>%b<a><visitorIp>192.0.2.1</visitorIp></a></request>"
        % b"<visitorIp>2001:db8::7</visitorIp>",
    ),
]
NO_ADDRESS = [
    "",
    "unknown",
    "192.0.2",
    "192.0.2.01",
    "192.0.2.1:80",
    "[2001:db8::1]",
    "fe80::1%eth0",
    " 192.0.2.1",
]
NOT_TO_BE_HELPED = [
    *((JSON, json.dumps({"request": {"visitorIp": said}}).encode()) for said in NO_ADDRESS),
    *((XML, f"<request><visitorIp>{said}</visitorIp></request>".encode()) for said in NO_ADDRESS),
    *(
        (JSON, b'{"request":{"visitorIp":%b}}' % said)
        for said in (b"null", b"3221225985", b"[]", b'{"a":"192.0.2.1"}')
    ),
    (XML, b"<request><visitorIp><a>192.0.2.1</a></visitorIp></request>"),
    (XML, b"<request><visitorIp>192.0.2.1</visitorIp><visitorIp>192.0.2.1</visitorIp></request>"),
    *(
        (JSON, body)
        for body in (b"{}", b"[]", b'"request"', b'{"request":[]}', b'{"request":null}', b'[{"request":{}}]')
    ),
    *((XML, body) for body in (b"<chat/>", b"<chat><request/></chat>", b"<Request/>")),
]


@pytest.mark.parametrize("rule", [REQUIRE, FROM_FORWARDED])
@pytest.mark.parametrize("forwarded", [FORWARDED, None])
@pytest.mark.parametrize(("representation", "body"), WITH_AN_ADDRESS)
def test_an_address_in_the_body_is_what_counts(
    representation: Representation, body: bytes, forwarded: str | None, rule: VisitorIp
) -> None:
    well_formed(body, representation)
    assert with_visitor_ip(body, representation, rule, forwarded) == body


@pytest.mark.parametrize(("representation", "body", "written"), WITHOUT)
def test_a_forwarded_address_is_written_in_where_there_is_none(
    representation: Representation, body: bytes, written: bytes
) -> None:
    well_formed(body, representation)
    assert with_visitor_ip(body, representation, FROM_FORWARDED, FORWARDED) == written
    assert with_visitor_ip(written, representation, REQUIRE, None) == written


@pytest.mark.parametrize(
    ("rule", "forwarded"), [(REQUIRE, FORWARDED), (REQUIRE, None), (FROM_FORWARDED, None)]
)
@pytest.mark.parametrize(("representation", "body"), [row[:2] for row in WITHOUT])
def test_without_any_address_it_is_refused(
    representation: Representation, body: bytes, rule: VisitorIp, forwarded: str | None
) -> None:
    assert with_visitor_ip(body, representation, rule, forwarded) == MISSING


@pytest.mark.parametrize("rule", [REQUIRE, FROM_FORWARDED])
@pytest.mark.parametrize(("representation", "body"), NOT_TO_BE_HELPED)
def test_what_is_no_address_or_no_request_is_refused(
    representation: Representation, body: bytes, rule: VisitorIp
) -> None:
    well_formed(body, representation)
    assert with_visitor_ip(body, representation, rule, FORWARDED) == MISSING


@pytest.mark.parametrize(
    ("representation", "body"), [*WITH_AN_ADDRESS, *(row[:2] for row in WITHOUT), *NOT_TO_BE_HELPED]
)
def test_who_may_pass_passes_unchanged(representation: Representation, body: bytes) -> None:
    assert with_visitor_ip(body, representation, PASS, FORWARDED) == body


# -- any body --------------------------------------------------------------------------------------------

_texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=12) | st.sampled_from(
    ["request", '"request":{', "visitorIp", "}{", "\\", "<request/>", "/>", "]]"]
)
_keys = _texts | st.sampled_from(["request", "Request", "requests"])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _json_bodies(draw: st.DrawFn) -> bytes:
    request = draw(st.dictionaries(_texts.filter(lambda key: key != "visitorIp"), _values, max_size=3))
    members = list(draw(st.dictionaries(_keys, _values, max_size=3)).items())
    members = [pair for pair in members if pair[0] != "request"]
    members.insert(draw(st.integers(0, len(members))), ("request", request))
    indent = draw(st.sampled_from([None, 0, 3, "\t"]))
    return json.dumps(dict(members), indent=indent, ensure_ascii=draw(st.booleans())).encode()


@given(_json_bodies())
def test_json_gains_one_member_and_nothing_else(body: bytes) -> None:
    written = with_visitor_ip(body, JSON, FROM_FORWARDED, FORWARDED)
    assert isinstance(written, bytes)
    well_formed(written, JSON)
    expected: dict[str, Any] = json.loads(body)
    expected["request"] = {"visitorIp": FORWARDED, **expected["request"]}
    assert json.dumps(json.loads(written)) == json.dumps(expected)
    added = len(written) - len(body)
    assert any(written[:at] + written[at + added :] == body for at in range(len(body)))


def _xml_body(random: Random) -> bytes:
    prefix = random.choice(("", "", "q:", "request:"))
    attributes = ""
    for name in random.sample(("a", "b:c", "visitorIp", "xmlns:q", "xmlns"), random.randint(0, 4)):
        quote = random.choice("'\"")
        value = random.choice((">", "/>", "<request>", "é", "", "'\""))
        space = random.choice((" ", "\n\t"))
        attributes += f"{space}{name}{random.choice(('=', ' = '))}{quote}{escape(value)}{quote}".replace(
            "&gt;", ">"
        )
    head = "".join(
        random.choice(("", "\n", "<?xml-style <request> ?>", "<!-- <request a='> -->")) for _ in range(3)
    )
    inner = "".join(
        random.choice(
            ("text", "\n ", "<request/>", "<a><visitorIp>x</visitorIp></a>", "<!-- </request> -->", "é")
        )
        for _ in range(random.randint(0, 3))
    )
    encoding = random.choice(("utf-8", "iso-8859-1"))
    declaration = f"<?xml version='1.0' encoding='{encoding}'?>"
    space = random.choice(("", " ", "\n"))
    start = f"{declaration}{head}<{prefix}request{attributes}{space}"
    whole = f"{start}/>" if random.random() < 0.3 else f"{start}>{inner}</{prefix}request>"
    return f"{whole}{random.choice(('', '<!-- <request> -->', chr(10)))}".encode(encoding)


@given(st.integers(0, 2**64).map(Random).map(_xml_body))
def test_xml_gains_one_element_and_nothing_else(body: bytes) -> None:
    written = with_visitor_ip(body, XML, FROM_FORWARDED, FORWARDED)
    assert isinstance(written, bytes)
    before, after = _root(body), _root(written)
    name = before.name.removesuffix("request") + "visitorIp"
    assert after == before._replace(children=[Element(name, {}, [FORWARDED]), *before.children])
    others = written.replace(f"<{name}>{FORWARDED}</{name}>".encode(), b"", 1)
    assert body in {others, others.replace(f"></{before.name}>".encode(), b"/>")}


def _root(body: bytes) -> Element:
    root = Document.parse(body, XML).root
    assert isinstance(root, Element)
    (only,) = root.children
    assert isinstance(only, Element)
    return only
