"""Where a document keeps its links: the byte spans of their hrefs, and how such a span is read and written.

In JSON these are the string members `href` and `@href` of link objects: objects that are the value of a key
`link`, or stand in an array there. In XML, the `href` attributes of `link` elements. The scanners jump from
link to link, which is sound only in a document that `core.documents` has parsed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Generator, Iterator

Span = tuple[int, int]

# Without a backslash before it, this can only be a key: a quote that ended a string would be followed by
# neither a letter nor a backslash. The second pattern is for keys that are spelled with escapes.
_LINK_KEY = re.compile(rb'"link"\s*:\s*')
_ESCAPED_LINK_KEY = re.compile(rb'"(?:l|\\u006[cC])(?:i|\\u0069)(?:n|\\u006[eE])(?:k|\\u006[bB])"\s*:\s*')
_JSON_TOKEN = re.compile(rb'[\[\]{}]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*:)?', re.DOTALL)
_HREF_KEYS = frozenset({"href", "@href"})

# `<` only begins markup; comments, CDATA and instructions could hide a tag and are skipped whole.
_XML_MARKUP = re.compile(rb"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>|<(?:[^\s<>/:!?]++:)?(link)", re.DOTALL)
_XML_ATTRIBUTE = re.compile(rb"\s+([^\s=<>/]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_XML_REFERENCE = re.compile(r"&(?:#x([0-9a-fA-F]+)|#([0-9]+)|(amp|lt|gt|quot|apos));")
_XML_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}
_XML_UNSAFE = re.compile("[^\x20-\x7e\udc80-\udcff]")


def json_hrefs(body: bytes) -> Iterator[Span]:
    """What stands between the quotes of each href in a JSON document, in order."""
    link_key = _ESCAPED_LINK_KEY if b"\\u00" in body else _LINK_KEY
    end = 0
    while key := link_key.search(body, end):
        end = key.end()
        if body[key.start() - 1 : key.start()] != b"\\" and body[end : end + 1] in (b"{", b"["):
            end = yield from _hrefs_of_value(body, end)


def _hrefs_of_value(body: bytes, start: int) -> Generator[Span, None, int]:
    """The hrefs inside the object or array that a key `link` has at `start`; returns where it ends."""
    containers: list[tuple[bool, bool]] = []  # (is it an array, is it of links), outermost first
    of_links, is_href = True, False
    for token in _JSON_TOKEN.finditer(body, start):
        mark = body[token.start()]
        if mark in b"[{":
            if containers and containers[-1][0]:
                of_links = containers[-1][1]
            containers.append((mark == ord("["), of_links))
            is_href = False
        elif mark in b"]}":
            containers.pop()
            is_href = False
            if not containers:
                return token.end()
        elif token[2] is not None:
            key = read_json(token[1])
            of_links = key == "link"
            is_href = containers[-1][1] and key in _HREF_KEYS
        elif is_href:
            yield token.span(1)
            is_href = False
    return len(body)


def read_json(raw: bytes) -> str:
    """The text of a JSON string, given without its quotes."""
    text: str = json.loads(b'"%b"' % raw) if b"\\" in raw else raw.decode()
    return text


def write_json(text: str) -> bytes:
    """The inverse of `read_json`, in ASCII."""
    return json.dumps(text)[1:-1].encode()


def xml_hrefs(body: bytes) -> Iterator[Span]:
    """What stands between the quotes of each href in an XML document, in order."""
    for markup in _XML_MARKUP.finditer(body):
        if markup[1]:
            yield from _hrefs_of_tag(body, markup.end())


def _hrefs_of_tag(body: bytes, start: int) -> Iterator[Span]:
    while attribute := _XML_ATTRIBUTE.match(body, start):
        start = attribute.end()
        prefix, _, name = attribute[1].rpartition(b":")
        if name == b"href" and prefix != b"xmlns":
            yield attribute.span(attribute.lastindex or 0)


def read_xml(raw: bytes) -> str:
    """The value of an XML attribute, given without its quotes.

    Bytes outside ASCII become lone surrogates (`surrogateescape`), so the document's encoding doesn't matter.
    """
    return _XML_REFERENCE.sub(_referred, raw.decode("ascii", "surrogateescape"))


def write_xml(text: str) -> bytes:
    """The inverse of `read_xml`, good between quotes of either kind."""
    escaped = _XML_UNSAFE.sub(lambda unsafe: f"&#{ord(unsafe[0])};", html.escape(text))
    return escaped.encode("ascii", "surrogateescape")


def _referred(reference: re.Match[str]) -> str:
    hexadecimal, decimal, name = reference.groups()
    if name is not None:
        return _XML_NAMED[name]
    return chr(int(hexadecimal, 16) if decimal is None else int(decimal))
