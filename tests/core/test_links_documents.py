from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

from gateway.core.documents import Document
from gateway.core.links import rewrite
from gateway.core.messages import Representation
from tests.core.documents_strategies import LINKS, PUBLIC, becomes, json_documents, xml_documents

JSON, XML = Representation.JSON, Representation.XML


@dataclass(frozen=True)
class Spelled:
    """A number as it was written."""

    digits: str


class Pairs(list[tuple[str, object]]):
    """An object as it was written: in order, repeated keys included."""


def read_json(body: bytes) -> object:
    return json.loads(body, object_pairs_hook=Pairs, parse_int=Spelled, parse_float=Spelled)


def walk_json(node: object, *, of_links: bool = False) -> tuple[object, list[str]]:
    """The document with its links as they have to become, and what they were."""
    seen: list[str] = []

    def below(value: object, *, of_links: bool) -> object:
        new, urls = walk_json(value, of_links=of_links)
        seen.extend(urls)
        return new

    if isinstance(node, Pairs):
        new = Pairs()
        for key, value in node:
            if of_links and key in ("href", "@href") and isinstance(value, str):
                seen.append(value)
                new.append((key, becomes(value)))
            else:
                new.append((key, below(value, of_links=key == "link")))
        return new, seen
    if isinstance(node, list):
        return [below(value, of_links=of_links) for value in node], seen
    return node, seen


def read_xml(body: bytes) -> ET.Element:
    builder = ET.TreeBuilder(insert_comments=True, insert_pis=True)
    parser = ET.XMLParser(target=builder)  # noqa: S314 - it reads what we made
    return ET.fromstring(body, parser)  # noqa: S314 - as above


def walk_xml(root: ET.Element) -> tuple[object, list[str]]:
    seen: list[str] = []
    for element in root.iter():
        if str(element.tag).rpartition("}")[2] == "link":
            for name, value in element.attrib.items():
                if name.rpartition("}")[2] == "href":
                    seen.append(value)
                    element.set(name, becomes(value))
    return plain(root), seen


def plain(element: ET.Element) -> object:
    return (str(element.tag), element.attrib, element.text, element.tail, [plain(child) for child in element])


def json_pieces(body: bytes) -> list[bytes]:
    """Strings, and what stands between them."""
    return re.split(rb'("(?:[^"\\]|\\.)*")', body)


def xml_pieces(body: bytes) -> list[bytes]:
    """Attribute values, and what stands between them."""
    pieces: list[bytes] = []
    for markup in re.split(
        rb"(<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<(?:\"[^\"]*\"|'[^']*'|[^>])*>)", body, flags=re.DOTALL
    ):
        is_tag = re.match(rb"<[^!?]", markup) is not None
        pieces += re.split(rb"(\"[^\"]*\"|'[^']*')", markup) if is_tag else [markup]
    return pieces


def from_json(piece: bytes) -> str:
    return str(json.loads(piece))


def from_xml(piece: bytes) -> str:
    # Whatever the encoding, one byte for one character: only compared after the same treatment.
    document = b"<?xml version='1.0' encoding='iso-8859-1'?><a b=%b/>" % piece
    return ET.fromstring(document).attrib["b"]  # noqa: S314 - it reads what we made


def changes(before: list[bytes], after: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    assert len(before) == len(after)
    return ((old, new) for old, new in zip(before, after, strict=True) if old != new)


def check(
    body: bytes,
    representation: Representation,
    pieces: Callable[[bytes], list[bytes]],
    read: Callable[[bytes], str],
) -> None:
    rewritten = rewrite(body, representation, LINKS)
    changed = list(changes(pieces(body), pieces(rewritten.body)))
    assert len(changed) == rewritten.rewritten
    for old, new in changed:
        assert becomes(read(old)) != read(old)
        assert read(new).startswith(PUBLIC + "/api/account/")
    again = rewrite(rewritten.body, representation, LINKS)
    assert (again.body, again.rewritten, again.foreign) == (rewritten.body, 0, rewritten.foreign)


def check_counts(urls: list[str], rewritten: int, foreign: int) -> None:
    assert rewritten == sum(becomes(url) != url for url in urls)
    assert foreign == sum(becomes(url) == url and not url.startswith(PUBLIC) for url in urls)


@settings(deadline=None, max_examples=400)
@given(json_documents)
def test_a_json_document_changes_in_its_links_only(body: bytes) -> None:
    Document.parse(body, JSON)
    expected, urls = walk_json(read_json(body))
    rewritten = rewrite(body, JSON, LINKS)
    assert read_json(rewritten.body) == expected
    check_counts(urls, rewritten.rewritten, rewritten.foreign)
    check(body, JSON, json_pieces, from_json)


@settings(deadline=None, max_examples=400)
@given(xml_documents)
def test_an_xml_document_changes_in_its_links_only(body: bytes) -> None:
    Document.parse(body, XML)
    expected, urls = walk_xml(read_xml(body))
    rewritten = rewrite(body, XML, LINKS)
    assert plain(read_xml(rewritten.body)) == expected
    check_counts(urls, rewritten.rewritten, rewritten.foreign)
    check(body, XML, xml_pieces, from_xml)


HOST = "https://lo.convep.liveperson.net"
LINE = """
{"@id":"7","@type":"line","systemMessageId":1E+2,"textType":"html",
"text":"<a href=\\"%s/api/account/123\\">\\u00e9</a>",
"link":{"@href":"%s/api/account/123/chat/H1/events/7","@rel":"self"}}"""
XML_LINE = """
<event id="7"><text>&lt;a href="%s/api/account/123"&gt;<![CDATA[<link href="x"/>]]></text>
<link rel="self" href="%s/api/account/123/chat/H1/events/7"/></event>"""


def transcript(base: str) -> bytes:
    lines = ",".join([LINE % (HOST, base)] * 5000)
    return f'{{"chat":{{"link":{{"@href":"{base}/api/account/123"}},"events":[{lines}]}}}}'.encode()


def xml_transcript(base: str) -> bytes:
    return f"<chat>{XML_LINE % (HOST, base) * 5000}</chat>".encode()


@pytest.mark.parametrize(
    ("make", "representation", "count"), [(transcript, JSON, 5001), (xml_transcript, XML, 5000)]
)
def test_a_transcript_of_a_megabyte(
    make: Callable[[str], bytes], representation: Representation, count: int
) -> None:
    body = make(HOST)
    assert len(body) > 1_000_000
    rewritten = rewrite(body, representation, LINKS)
    assert (rewritten.rewritten, rewritten.foreign) == (count, 0)
    assert rewritten.body == make(PUBLIC)
