from __future__ import annotations

import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.documents import (
    MAX_DEPTH,
    Broken,
    Document,
    InfoFacts,
    UpstreamError,
    parse_json,
    read_error,
    render_error,
    well_formed,
)
from gateway.core.messages import Representation

JSON, XML = Representation.JSON, Representation.XML
VOLATILE = frozenset({"lastUpdate", "duration"})


def nested_json(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"1" + b"]}" * (depth // 2)


def nested_xml(depth: int) -> bytes:
    return b"<a>" * depth + b"1" + b"</a>" * depth


LAUGHS = b"<!DOCTYPE a [<!ENTITY b 'ha'><!ENTITY c '&b;&b;'>]><a>&c;</a>"


@pytest.mark.parametrize(
    ("body", "representation", "why"),
    [
        (b"", JSON, "line 1 column 1"),
        (b" \n", JSON, "line 2 column 1"),
        (b'{"a":1', JSON, "char 6"),
        (b'{"a":1}{}', JSON, "Extra data"),
        (b"{'a':1}", JSON, "double quotes"),
        (b'{"a":"\n"}', JSON, "control character"),
        (b"[01]", JSON, "char 2"),
        (b"[NaN]", JSON, "expected a number, got NaN"),
        (b"[-Infinity]", JSON, "expected a number, got -Infinity"),
        (b'"\xff"', JSON, "utf-8"),
        (b'"\xed\xa0\x80"', JSON, "utf-8"),
        (b"\xef\xbb\xbf{}", JSON, "char 0"),
        ("{}".encode("utf-16"), JSON, "utf-8"),
        (b"[" * 1_000_000, JSON, "nested deeper than 200"),
        (b"[" + nested_json(MAX_DEPTH) + b"]", JSON, "nested deeper than 200"),
        (b"", XML, "no element"),
        (b"text", XML, "line 1, column 0"),
        (b"<a>", XML, "no element"),
        (b"<a></b>", XML, "mismatched tag: line 1, column 5"),
        (b"<a/><a/>", XML, "junk"),
        (b"<a b='1' b='2'/>", XML, "duplicate attribute"),
        (b"<a>&nbsp;</a>", XML, "undefined entity"),
        (b"<a>\x01</a>", XML, "line 1, column 3"),
        (b"<a>\xff</a>", XML, "line 1, column 3"),
        (b"<!DOCTYPE a><a/>", XML, "document type"),
        (LAUGHS, XML, "document type"),
        ("<a/>".encode("utf-16"), XML, "NUL"),
        ("<a/>".encode("utf-16-le"), XML, "NUL"),
        (b"<?xml version='1.0' encoding='utf-16'?><a/>", XML, "encoding"),
        (b"<?xml version='1.0' encoding='koi8-r'?><a/>", XML, "encoding"),
        (b"<?xml version='1.0' encoding='us-ascii'?><a>\xe9</a>", XML, "line 1"),
        (nested_xml(MAX_DEPTH + 1), XML, "nested deeper than 200"),
    ],
)
def test_a_broken_document_says_what_and_where(body: bytes, representation: Representation, why: str) -> None:
    with pytest.raises(Broken, match=why):
        Document.parse(body, representation)
    with pytest.raises(Broken, match=why):
        well_formed(body, representation)
    assert read_error(body, representation) is None


@pytest.mark.parametrize(
    ("body", "representation"),
    [
        (b"null", JSON),
        (b' {"a":"\\ud800"}\r\n', JSON),
        (b"9" * 100_000, JSON),
        (b"[1e999999]", JSON),
        (b'"' + b"[" * 300 + b'"', JSON),
        (b"[" + b"[],{}," * 300 + b"1]", JSON),
        (nested_json(MAX_DEPTH), JSON),
        (b"<a/>", XML),
        (
            b"\xef\xbb\xbf<?xml version='1.0' encoding='UTF-8' standalone='yes'?>\n<a>\xc3\xa9</a><!-- b -->",
            XML,
        ),
        (b"<?xml version='1.0' encoding='ISO-8859-1'?><a>\xe9</a>", XML),
        (b"<a><![CDATA[<!DOCTYPE html>]]></a>", XML),
        (nested_xml(MAX_DEPTH), XML),
    ],
)
def test_a_whole_document_is_taken(body: bytes, representation: Representation) -> None:
    well_formed(body, representation)
    assert len(Document.parse(body, representation).fingerprint(VOLATILE)) == 32


@pytest.mark.parametrize("body", [b'{"a":1,"a":1}', b'[{"b":{"a":1,"\\u0061":2}}]'])
def test_repeated_keys_are_refused_of_a_client_only(body: bytes) -> None:
    Document.parse(body, JSON)
    with pytest.raises(Broken, match="repeated"):
        well_formed(body, JSON)


def test_numbers_keep_their_spelling() -> None:
    assert repr(parse_json(b"[1E+2,-0.0,1.10,007e1]".replace(b"007", b"7"))) == "[1E+2, -0.0, 1.10, 7e1]"


@given(st.binary() | st.text().map(str.encode), st.sampled_from(Representation))
def test_any_bytes_are_a_document_or_broken(body: bytes, representation: Representation) -> None:
    try:
        document = Document.parse(body, representation)
    except Broken:
        assert read_error(body, representation) is None
    else:
        assert document.facts() == InfoFacts(None, None)
        assert document.fingerprint(frozenset())


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        ("40", 40.0),
        ('"40"', 40.0),
        ("4E+1", 40.0),
        ("40.50", 40.5),
        ("86400", 86400.0),
        ("86401", None),
        ("1e99", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("0", None),
        ("-40", None),
        ("-0.0", None),
        ("true", None),
        ("null", None),
        ("[40]", None),
        ('"4_0"', None),
        ('"\\u0664\\u0660"', None),
        ('"NaN"', None),
        ('"Infinity"', None),
        ('""', None),
    ],
)
def test_chat_timeout(timeout: str, seconds: float | None) -> None:
    body = f'{{"info":{{"state":"waiting","chatTimeout":{timeout}}}}}'.encode()
    assert Document.parse(body, JSON).facts() == InfoFacts("waiting", seconds)


@pytest.mark.parametrize(
    ("body", "representation", "facts"),
    [
        (b'{"info":{"state":"chatting","chatTimeout":40}}', JSON, InfoFacts("chatting", 40.0)),
        (b'{"chat":{"link":[],"info":{"chatTimeout":"40","state":"ended"}}}', JSON, InfoFacts("ended", 40.0)),
        (b'{"info":{"state":"resume"}}', JSON, InfoFacts(None, None)),
        (b'{"info":{"state":["ended"],"chatTimeout":{}}}', JSON, InfoFacts(None, None)),
        (b'{"info":[{"state":"ended"}]}', JSON, InfoFacts(None, None)),
        (b'{"events":{"info":{"state":"ended"}}}', JSON, InfoFacts(None, None)),
        (b'{"state":"ended"}', JSON, InfoFacts(None, None)),
        (b'["info"]', JSON, InfoFacts(None, None)),
        (
            b"<info><state>chatting</state><chatTimeout>40</chatTimeout></info>",
            XML,
            InfoFacts("chatting", 40.0),
        ),
        (
            b"<i:info xmlns:i='u'><i:state>\n chat<!-- -->t<![CDATA[ing]]></i:state>%b</i:info>"
            % b"<chatTimeout> 40 </chatTimeout>",
            XML,
            InfoFacts("chatting", 40.0),
        ),
        (b"<chat><info><state>ended</state></info></chat>", XML, InfoFacts("ended", None)),
        (b"<info><state><b/>ended</state><chatTimeout/></info>", XML, InfoFacts(None, None)),
        (b"<x><info><state>ended</state></info></x>", XML, InfoFacts(None, None)),
    ],
)
def test_facts(body: bytes, representation: Representation, facts: InfoFacts) -> None:
    assert Document.parse(body, representation).facts() == facts


def fingerprint(body: str, representation: Representation) -> str:
    return Document.parse(body.encode(), representation).fingerprint(VOLATILE)


@pytest.mark.parametrize(
    ("body", "representation", "is_always"),
    [
        ('{"info":{"state":"chatting","lastUpdate":7}}', JSON, "4b56d53fb108e622a323202589035152"),
        (
            "<info><state>chatting</state><lastUpdate>7</lastUpdate></info>",
            XML,
            "81905090933d8b8de055ca2d7270edeb",
        ),
    ],
)
def test_a_fingerprint_is_the_same_in_every_process(
    body: str, representation: Representation, is_always: str
) -> None:
    """Or a client that comes to another replica, or back after a restart, would be told all anew."""
    assert fingerprint(body, representation) == is_always


@pytest.mark.parametrize(
    ("one", "other", "representation"),
    [
        ('{"lastUpdate":"a","x":1}', '{"lastUpdate":["b",{}],"x":1}', JSON),
        ('{"x":[{"@duration":1}]}', '{"x":[{}]}', JSON),
        ('{"x":{"lastUp\\u0064ate":1}}', '{ "x" : {} }', JSON),
        ("<a><duration>1</duration></a>", "<a><duration x=''><b/></duration></a>", XML),
        ("<a lastUpdate='1' b=''/>", "<a b=''/>", XML),
        ("<a><b><q:lastUpdate/></b></a>", "<a><b></b></a>", XML),
        ("<?xml version='1.0'?><a>&lt;</a>", "<a><!-- --><![CDATA[<]]></a>", XML),
    ],
)
def test_volatile_fields_do_not_count(one: str, other: str, representation: Representation) -> None:
    assert fingerprint(one, representation) == fingerprint(other, representation)


@pytest.mark.parametrize(
    ("one", "other", "representation"),
    [
        ('{"x":1}', '{"x":"1"}', JSON),
        ('{"x":1.10}', '{"x":1.1}', JSON),
        ('{"x":null}', '{"x":"None"}', JSON),
        ('{"x":true}', '{"x":1}', JSON),
        ('{"x":null}', "{}", JSON),
        ('{"x":"lastUpdate"}', '{"x":"duration"}', JSON),
        ('{"lastUpdated":1}', '{"lastUpdated":2}', JSON),
        ('["a","b"]', "[\"a', 'b\"]", JSON),
        ('"\\ud800"', '"\\udc00"', JSON),
        ('"\\\\ud800"', '"\\ud800"', JSON),
        ("[]", "{}", JSON),
        ("<a>1</a>", "<a>2</a>", XML),
        ("<a b='1'/>", "<a b='2'/>", XML),
        ("<a b='1'/>", "<a><b>1</b></a>", XML),
        ("<a/>", "<b/>", XML),
        ("<a>duration</a>", "<a>lastUpdate</a>", XML),
        ("<a><b/></a>", "<a>b</a>", XML),
    ],
)
def test_anything_else_counts(one: str, other: str, representation: Representation) -> None:
    assert fingerprint(one, representation) != fingerprint(other, representation)


names = st.text("abc", min_size=1, max_size=3)
leaves = st.none() | st.booleans() | st.integers() | st.text()
trees = st.recursive(leaves, lambda below: st.lists(below) | st.dictionaries(names, below))
paths = st.lists(st.tuples(names, trees), max_size=5)


def with_leaf(path: list[tuple[str, object]], leaf: object, field: str) -> str:
    """A document with a leaf at the end of a path, and something beside each step."""
    node: object = {field: leaf}
    for name, beside in path:
        node = {"_beside": beside, name: [node]}
    return json.dumps(node)


@given(paths, leaves, leaves)
def test_json_fingerprints_differ_as_documents_do(
    path: list[tuple[str, object]], one: object, other: object
) -> None:
    same = json.dumps(one) == json.dumps(other)
    assert (
        fingerprint(with_leaf(path, one, "x"), JSON) == fingerprint(with_leaf(path, other, "x"), JSON)
    ) is same
    assert fingerprint(with_leaf(path, one, "@duration"), JSON) == fingerprint(
        with_leaf(path, other, "lastUpdate"), JSON
    )


def xml_with_leaf(path: list[str], leaf: str, field: str) -> str:
    root = node = ET.Element("root")
    for name in path:
        node = ET.SubElement(node, name, beside=leaf if name == field else name)
    ET.SubElement(node, field).text = leaf
    return ET.tostring(root, encoding="unicode")


words = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cn")))


@given(st.lists(names), words, words)
def test_xml_fingerprints_differ_as_documents_do(path: list[str], one: str, other: str) -> None:
    same = one == other
    assert (
        fingerprint(xml_with_leaf(path, one, "x"), XML) == fingerprint(xml_with_leaf(path, other, "x"), XML)
    ) is same
    assert fingerprint(xml_with_leaf(path, one, "duration"), XML) == fingerprint(
        xml_with_leaf(path, other, "lastUpdate"), XML
    )


GONE = UpstreamError("Chat not found", "2017-02-27T06:35:45-05:00", 12)


@pytest.mark.parametrize(
    ("body", "representation", "error"),
    [
        (
            b'{"error":{"time":"2017-02-27T06:35:45-05:00","message":"Chat not found","internalCode":12}}',
            JSON,
            GONE,
        ),
        (
            b'{"message":"m","internalCode":"20","time":1488195345448}',
            JSON,
            UpstreamError("m", "1488195345448", 20),
        ),
        (b'{"error":{"message":"m"}}', JSON, UpstreamError("m", None, None)),
        (b'{"error":{"message":"m","internalCode":1.5,"time":"<b>"}}', JSON, UpstreamError("m", None, None)),
        (b'{"error":{"message":"","internalCode":-1}}', JSON, UpstreamError("", None, -1)),
        (
            b'{"error":{"message":"m","internalCode":' + b"9" * 9999 + b"}}",
            JSON,
            UpstreamError("m", None, None),
        ),
        (
            b"<error><internalCode>12</internalCode><time>2017-02-27T06:35:45-05:00</time>%b</error>"
            % b"<message>Chat not found</message>",
            XML,
            GONE,
        ),
        (
            b"<e:error xmlns:e='u'><message>a &lt; b</message></e:error>",
            XML,
            UpstreamError("a < b", None, None),
        ),
        (b'{"message":"no code, no envelope"}', JSON, None),
        (b'{"error":"m","message":"n"}', JSON, None),
        (b'{"error":{"message":null}}', JSON, None),
        (b'{"error":{"message":{}}}', JSON, None),
        (b'[{"message":"m","internalCode":5}]', JSON, None),
        (b"<message>m</message>", XML, None),
        (b"<html><error><message>m</message></error></html>", XML, None),
        (b"<error><message><b/></message></error>", XML, None),
    ],
)
def test_read_error(body: bytes, representation: Representation, error: UpstreamError | None) -> None:
    assert read_error(body, representation) == error


errors = st.builds(
    UpstreamError,
    message=words.map(str.strip),
    time=st.none() | st.just("2017-02-27T06:35:45-05:00"),
    internal_code=st.none() | st.integers(0, 99),
)


@given(errors, st.sampled_from(Representation))
def test_a_rendered_error_reads_the_same(error: UpstreamError, representation: Representation) -> None:
    assert read_error(render_error(error, representation), representation) == error


@given(st.builds(UpstreamError, st.text(), st.none() | st.text(), st.none()), st.sampled_from(Representation))
def test_a_rendered_error_is_always_well_formed(error: UpstreamError, representation: Representation) -> None:
    body = render_error(error, representation)
    well_formed(body, representation)
    assert read_error(body, representation) is not None


def test_what_is_tainted_does_not_show_itself() -> None:
    assert "secret" not in repr(UpstreamError("secret", None, 5))
    assert "secret" not in repr(Document.parse(b'"secret"', JSON))


@pytest.mark.parametrize(
    ("body", "representation", "links", "key"),
    [
        (
            b'{"info":{"link":[{"@href":"/a","@rel":"self"},{"href":"/b","rel":"self"}]}}',
            JSON,
            ["/a", "/b"],
            None,
        ),
        (b'{"link":{"href":"/a","rel":"self"},"chatSessionKey":"H1"}', JSON, ["/a"], None),
        (b'{"info":{"link":{"href":"/a","rel":"next"},"chatSessionKey":"H1"}}', JSON, [], "H1"),
        (
            b'{"chat":{"link":{"href":"/a","rel":"self"},"events":{"link":{"href":"/b","rel":"self"}},%b}}'
            % b'"info":{"link":{"href":"/c","rel":"self"},"chatSessionKey":"H1"}',
            JSON,
            ["/a", "/c", "/b"],
            "H1",
        ),
        (b'{"info":{"link":{"\\u0068ref":"\\/a","rel":"self"}}}', JSON, ["/a"], None),
        (b'["self"]', JSON, [], None),
        (
            b'<chat><link rel="self" href="/a&amp;b"/><info><link href="/c" rel="self"/>%b</info>'
            b"<events><link rel='self' href='/d'/></events></chat>"
            % b"<chatSessionKey> H1 </chatSessionKey>",
            XML,
            ["/a&b", "/c", "/d"],
            "H1",
        ),
        (b'<a:info xmlns:a="a"><a:link a:rel="self" href="/a"/></a:info>', XML, ["/a"], None),
        (b'<info><link rel="self"/><link href="/a"/><x rel="self" href="/b"/></info>', XML, [], None),
    ],
)
def test_where_a_document_says_that_it_is(
    body: bytes, representation: Representation, links: list[str], key: str | None
) -> None:
    document = Document.parse(body, representation)
    assert list(document.self_links()) == links
    assert document.session_key() == key
