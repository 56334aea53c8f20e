"""Rewriting links in a document: what a parser sees is the same but for the links, and those lead here.

The first byte says whether it is XML. The reference goes over the parsed document, not over its bytes.
"""

from __future__ import annotations

import json
from xml.parsers import expat

from gateway.core.documents import Broken, well_formed
from gateway.core.links import LinkMap, rewrite, rewrite_url
from gateway.core.messages import Representation

PUBLIC_URL = "https://chat.example"
LINKS = LinkMap(PUBLIC_URL, {"123": frozenset({"up.example"})}, ("*.liveperson.net",))
#: Links of nobody's: nothing is to be rewritten.
NOBODYS = LinkMap(PUBLIC_URL, {}, ())
_SPACES = bytes.maketrans(b"\t\r\n", b"   ")
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


def check(data: bytes) -> None:
    representation = Representation.XML if data[:1] == b"X" else Representation.JSON
    # Of a line end in an attribute a parser makes a space; where it stands in a URL a browser drops it, and
    # so do we.
    body = data[1:].translate(None if representation is Representation.JSON else _SPACES)
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
    """All that expat tells of, names as they are spelled, attributes in order."""
    seen: list[object] = []

    def start(name: str, attributes: list[str]) -> None:
        is_link = name in {"link", f"{name.partition(':')[0]}:link"}
        pairs = zip(attributes[::2], attributes[1::2], strict=True)
        seen.append((name, [(key, one(key, value) if is_link else value) for key, value in pairs]))

    def one(key: str, value: str) -> str:
        prefix, _, local = key.rpartition(":")
        if local != "href" or prefix == "xmlns":
            return value
        return _becomes(value, rewrites=rewrites)

    parser = expat.ParserCreate()
    parser.buffer_text = parser.ordered_attributes = True
    parser.StartElementHandler = start
    parser.EndElementHandler = parser.CharacterDataHandler = parser.CommentHandler = seen.append
    parser.ProcessingInstructionHandler = lambda *told: seen.append(told)
    parser.StartCdataSectionHandler = parser.EndCdataSectionHandler = lambda: seen.append("CDATA")
    parser.Parse(body, True)
    return seen
