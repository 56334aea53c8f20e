"""Rewriting links in a document: what a parser sees is the same but for the links, and those lead here.

The first byte says whether it is XML. The reference goes over the parsed document, not over its bytes.
"""

from __future__ import annotations

import json
from xml.etree import ElementTree as ET

from gateway.core.documents import Broken, well_formed
from gateway.core.links import LinkMap, rewrite, rewrite_url
from gateway.core.messages import Representation

PUBLIC_URL = "https://chat.example"
LINKS = LinkMap(PUBLIC_URL, {"123": frozenset({"up.example"})}, ("*.liveperson.net",))
#: Links of nobody's: nothing is to be rewritten.
NOBODYS = LinkMap(PUBLIC_URL, {}, ())
HREF = b"https://up.example/api/account/123/chat/H1-2"
SEEDS = [
    b'J{"chat": {"link": [{"@href": "%b", "@rel": "self"}, {"href": "x"}], "n": 1.0e5}}' % HREF,
    b'J{"l\\u0069nk": {"href": "https:\\/\\/a.liveperson.net\\/api\\/account\\/123?appKey=1"}, "link": "x"}',
    b'J[{"link": {"a": {"href": "%b"}, "link": [[{"href": "%b"}]]}}, "\\"link\\":{"]' % (HREF, HREF),
    b'X<?xml version="1.0"?><chat><link rel="self" href="%b"/><a:link xmlns:a="u" a:href=\'%b\'/></chat>'
    % (HREF, HREF),
    b'X<c><!-- <link href="%b"/> --><![CDATA[<link href="x"/>]]><link href="%b?a=1&amp;b&#x20;"/>&lt;</c>'
    % (HREF, HREF),
]
Pairs = tuple[tuple[str, object], ...]


def check(data: bytes) -> None:
    representation = Representation.XML if data[:1] == b"X" else Representation.JSON
    body = data[1:]
    try:
        well_formed(body, representation)
    except Broken:
        return
    rewritten = rewrite(body, representation, LINKS)
    see = _seen_json if representation is Representation.JSON else _seen_xml
    assert see(rewritten.body, rewrites=False) == see(body, rewrites=True), rewritten.body
    again = rewrite(rewritten.body, representation, LINKS)
    assert (again.body, again.rewritten) == (rewritten.body, 0), "what was rewritten is left alone"
    assert again.foreign == rewritten.foreign
    assert rewrite(body, representation, NOBODYS).body == body, "every other byte stays"


def _becomes(url: str, *, rewrites: bool) -> str:
    return (rewrite_url(url, LINKS) if rewrites else None) or url


def _seen_json(body: bytes, *, rewrites: bool) -> object:
    """The document, numbers as they are spelled, keys in order and repeated, links as they become."""

    def seen(node: object, *, of_links: bool) -> object:
        if isinstance(node, tuple):
            return tuple(
                (key, _becomes(value, rewrites=rewrites))
                if of_links and key in {"href", "@href"} and isinstance(value, str)
                else (key, seen(value, of_links=key == "link"))
                for key, value in node
            )
        return [seen(each, of_links=of_links) for each in node] if isinstance(node, list) else node

    def spelled(text: str) -> tuple[()] | list[object]:
        return [["number", text]]

    read = json.loads(body, object_pairs_hook=tuple, parse_int=spelled, parse_float=spelled)
    return seen(read, of_links=False)


def _seen_xml(body: bytes, *, rewrites: bool) -> object:
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True, insert_pis=True))  # noqa: S314 - it was
    # found well-formed, without a DTD.
    return _seen_element(ET.fromstring(body, parser), rewrites=rewrites)  # noqa: S314 - as above


def _seen_element(element: ET.Element, *, rewrites: bool) -> object:
    is_link = str(element.tag).rpartition("}")[2] == "link"
    attributes = {
        name: _becomes(value, rewrites=rewrites) if is_link and name.rpartition("}")[2] == "href" else value
        for name, value in element.attrib.items()
    }
    children = [_seen_element(child, rewrites=rewrites) for child in element]
    return str(element.tag), attributes, element.text, element.tail, children
