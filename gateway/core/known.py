"""What an info says of its fields that are resources of their own (server-chat-api C6, C8, C10).

Where it cannot be told to the byte what the upstream would answer, nothing is: then the upstream is asked.
"""

from __future__ import annotations

import html
import json
import re

from gateway.core.documents import Document, Element
from gateway.core.hrefs import read_json
from gateway.core.messages import Answer, Representation
from gateway.core.views import STRUCTURE, View, viewed

#: While no agent is there its resource says `unknown`, which `info` never does (C10).
_OF_AN_AGENT = "agentTyping"

# What is left of an info without its other fields; of a field said twice, or in another way, it is not.
_JSON = re.compile(rb'\s*\{\s*"info"\s*:\s*\{\s*"[^"]*"\s*:\s*"((?:[^"\\]|\\.)*)"\s*\}\s*\}\s*', re.DOTALL)
_XML = re.compile(rb"(<\?xml[^>]*\?>)?\s*<info>\s*<([^\s<>/]+)>([^<]*)</\2>\s*</info>\s*")
#: As the upstream declares it, as far as is known; expat and every client take it for what it is.
_DECLARATION = b'<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'

# XML has no other characters, and reads a return as a line feed.
_IN_BOTH = re.compile("[\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")
# Some JSON of the upstream's has such a text for a number (server-chat-api §2.4).
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*")


def known(answer: Answer, field: str, of: Representation, wanted: Representation) -> Answer | None:
    """The answer of a field's own resource, by that of its info; None if only the upstream can tell.

    `answer` is undressed. A value keeps its bytes, and its escapes, where the representation stays.
    """
    if answer.status != 200:
        return None
    if field == _OF_AN_AGENT and Document.parse(answer.body, of).facts().state != "chatting":
        return None
    body = (_from_json if of is Representation.JSON else _from_xml)(answer.body, field, wanted)
    return None if body is None else Answer(200, ((b"content-type", wanted.media_type),), body)


def _from_json(info: bytes, field: str, wanted: Representation) -> bytes | None:
    said = _JSON.fullmatch(_alone(info, field, Representation.JSON))
    if said is None:
        return None
    if wanted is Representation.JSON:
        return b'{"%b":"%b"}' % (field.encode(), said[1])
    text = read_json(said[1])
    if not _IN_BOTH.fullmatch(text):
        return None
    return _element(_DECLARATION, field, html.escape(text, quote=False).encode())


def _from_xml(info: bytes, field: str, wanted: Representation) -> bytes | None:
    said = _XML.fullmatch(_alone(info, field, Representation.XML))
    # An element inside the text is cut out of it like any other field.
    if said is None or _element(b"", field, said[3]) not in info:
        return None
    document = _element(said[1] or b"", field, said[3])
    if wanted is Representation.XML:
        return document
    text = _text(document)
    # A bare return was read as a line feed.
    if b"\r" in said[3] or _NUMBER.fullmatch(text) or not _IN_BOTH.fullmatch(text):
        return None
    return json.dumps({field: text}, separators=(",", ":"), ensure_ascii=False).encode()


def _alone(info: bytes, field: str, of: Representation) -> bytes:
    return viewed(info, of, View(frozenset({field}), STRUCTURE - {"info"}))


def _element(declaration: bytes, name: str, escaped: bytes) -> bytes:
    return b"%b<%b>%b</%b>" % (declaration, name.encode(), escaped, name.encode())


def _text(document: bytes) -> str:
    match Document.parse(document, Representation.XML).root:
        case Element(children=[Element(children=texts)]):
            return "".join(text for text in texts if isinstance(text, str))
        case _:
            raise AssertionError("an element that holds nothing but text was made")
