"""Where the fields of a document stand that are to be withheld: the byte spans to cut.

Without them the document is well-formed again, if `core.documents` has parsed it before; every field that
stays keeps its bytes. The spans come in order and don't overlap. Each token is looked at once,
and each name is judged once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator

from gateway.core.hrefs import Span, read_json

# A token and the white space behind it. None begins with white space, so a long run of it is passed once.
_JSON_TOKEN = re.compile(rb'([\[\]{},]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:)?|[^\s\[\]{},"]++)\s*+', re.DOTALL)

# `<` only begins markup; of comments, CDATA and instructions nothing is understood but their ends.
_XML_MARKUP = re.compile(
    rb"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<\?.*?\?>"
    rb"|<(/)?([^\s<>/=!?]++)((?:\s++[^\s<>/=]++\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+'))*+)\s*+(/)?>",
    re.DOTALL,
)
_XML_ATTRIBUTE = re.compile(rb"\s++([^\s=]++)\s*+=\s*+(?:\"[^\"]*+\"|'[^']*+')")


def json_cuts(body: bytes, shows: Callable[[str], bool]) -> Iterator[Span]:
    """The members whose names are not shown, each with the comma that would be one too many."""
    # A document says the same few names again and again.
    is_shown = functools.cache(lambda name: shows(read_json(name).removeprefix("@")))
    # For each open container: once a member of it stays, where the member before ended; until then 0.
    ends: list[int] = []
    cutting = start = last = 0  # `cutting` is the depth of the member that goes, 0 while all stay
    for token in _JSON_TOKEN.finditer(body):
        mark = body[token.start()]
        if mark in b",]}":
            if cutting == len(ends):
                # With the comma before it, if there is anything before that; else with the one behind it.
                yield start, (token.end() if mark == ord(",") and not ends[-1] else last)
                cutting = 0
                ends[-1] = ends[-1] and last
            elif not cutting:
                ends[-1] = last
            if mark != ord(","):
                ends.pop()
        elif mark in b"[{":
            ends.append(0)
        elif not cutting and token[3] is not None and not is_shown(token[2]):
            cutting, start = len(ends), ends[-1] or token.start()
        last = token.end(1)


def xml_cuts(body: bytes, shows: Callable[[str], bool]) -> Iterator[Span]:
    """The elements whose names are not shown, and the attributes, each with the white space before it.

    A document has a root: of one that is not shown the tags stay, with nothing in or between them.
    """
    is_shown = functools.cache(lambda name: shows(_local(name)))
    depth = cutting = start = 0  # `cutting` is the depth of the element that goes, 0 while all stay
    for markup in _XML_MARKUP.finditer(body):
        closing, name, attributes, empty = markup.groups()
        if name is None:
            continue
        if closing is None:
            depth += 1
            if not cutting:
                stays = is_shown(name)
                if attributes and (stays or depth == 1):
                    yield from _attribute_cuts(body, markup.span(3), is_shown if stays else _nothing)
                if not stays:
                    cutting, start = depth, markup.start() if depth > 1 else markup.end()
        if closing is not None or empty is not None:
            if cutting == depth:
                yield start, markup.end() if depth > 1 else max(start, markup.start())
                cutting = 0
            depth -= 1


def _attribute_cuts(body: bytes, within: Span, is_shown: Callable[[bytes], bool]) -> Iterator[Span]:
    for attribute in _XML_ATTRIBUTE.finditer(body, *within):
        # What declares a prefix is no field, whatever the prefix is called.
        if attribute[1].partition(b":")[0] != b"xmlns" and not is_shown(attribute[1]):
            yield attribute.span()


def _nothing(_name: bytes) -> bool:
    return False


def _local(name: bytes) -> str:
    return name.rpartition(b":")[2].decode("utf-8", "surrogateescape")
