"""What the upstream or a client said, read strictly: JSON or XML, parsed first and then asked.

Nothing here is written back: bodies cross as bytes. So numbers keep their spelling and never become
numbers, and only what the questions need is understood.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, NoReturn, Self
from xml.parsers import expat

from gateway.core.messages import Representation
from gateway.core.policy import STATES

#: The samples nest four deep; libxml2 stops at 256.
MAX_DEPTH = 200

#: More than a day of silence is no timeout (`maxWaitTime` ends there too).
MAX_CHAT_TIMEOUT_S = 86400.0

_ENCODINGS = frozenset({"utf-8", "us-ascii", "iso-8859-1"})
_DECIMAL = re.compile(r"[0-9]{1,16}(?:\.[0-9]{1,16})?(?:[eE][+-]?[0-9]{1,2})?")
_CODE = re.compile(r"-?[0-9]{1,9}")
_TIME = re.compile(r"[0-9][0-9TZ:.+-]{0,39}")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Broken(ValueError):
    """The document cannot be used; the text says what and where, and quotes nothing of it."""


class Number(str):
    """A JSON number in the document's own spelling: of any length, and 1.10 is not 1.1."""

    __slots__ = ()

    __repr__ = str.__str__


class Element(NamedTuple):
    """An XML element. Names keep their prefix; comments and processing instructions are left out."""

    name: str
    attributes: dict[str, str]
    children: list[Element | str]


@dataclass(frozen=True, slots=True)
class InfoFacts:
    """What the gateway believes of an `info`; None where it says nothing, or nonsense."""

    state: str | None
    chat_timeout_s: float | None


@dataclass(frozen=True, slots=True)
class UpstreamError:
    """The upstream's error envelope. The message is tainted: it echoes paths and queries."""

    message: str = field(repr=False)
    time: str | None
    internal_code: int | None


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed document. An XML root is the only child of a nameless element, as a JSON root has members."""

    root: object = field(repr=False)

    @classmethod
    def parse(cls, body: bytes, representation: Representation, *, strict: bool = False) -> Self:
        """Read a document; raises Broken. `strict` is for client bodies: JSON keys must not repeat."""
        if representation is Representation.JSON:
            return cls(parse_json(body, strict=strict))
        return cls(_parse_xml(body))

    def facts(self) -> InfoFacts:
        """The facts of the info or the chat resource; of any other document, none."""
        info = self._info()
        state = _text(_child(info, "state"))
        return InfoFacts(
            state=state if state in STATES else None,
            chat_timeout_s=_seconds(_text(_child(info, "chatTimeout"))),
        )

    def _info(self) -> object:
        return _child(self.root, "info") or _child(_child(self.root, "chat"), "info")

    def session_key(self) -> str | None:
        """The `chatSessionKey` of the info or the chat resource: the chat's id (server-chat-api §1.5)."""
        return _text(_child(self._info(), "chatSessionKey"))

    def self_links(self) -> Iterator[str]:
        """Where the document says that it is: the links of rel `self` of its root, and of a chat's parts."""
        chat = _child(self.root, "chat")
        for owner in (self.root, *_children(self.root), _child(chat, "info"), _child(chat, "events")):
            for link in _links(owner):
                href = _attribute(link, "href") if _attribute(link, "rel") == "self" else None
                if href is not None:
                    yield href

    def error(self) -> UpstreamError | None:
        """The error envelope, wrapped or not; None for any other document."""
        envelope = _child(self.root, "error") or self.root
        message = _text(_child(envelope, "message"))
        code = _text(_child(envelope, "internalCode"))
        if message is None or (envelope is self.root and code is None):
            return None
        time = _text(_child(envelope, "time"))
        return UpstreamError(
            message=message,
            time=time if time and _TIME.fullmatch(time) else None,
            internal_code=int(code) if code and _CODE.fullmatch(code) else None,
        )

    def fingerprint(self, without: frozenset[str]) -> str:
        """32 hex digits over the document without the fields of these names, at any depth.

        In JSON their `@` twins are left out too, in XML elements and attributes, whatever their prefix.
        The order of fields and the spelling of numbers count; white space between JSON tokens, comments
        and CDATA marks don't.
        """
        rest = _without(self.root, without | {f"@{name}" for name in without})
        return hashlib.sha256(ascii(rest).encode()).hexdigest()[:32]


def well_formed(body: bytes, representation: Representation) -> None:
    """Raise Broken unless a client's body is a document of its representation."""
    Document.parse(body, representation, strict=True)


def read_error(body: bytes, representation: Representation) -> UpstreamError | None:
    """The error envelope in a body (server-chat-api §2.6); None if there is none. Never raises."""
    try:
        return Document.parse(body, representation).error()
    except Broken:
        return None


def render_error(error: UpstreamError, representation: Representation) -> bytes:
    """A fresh envelope with the three fields; what is None is left out."""
    fields = {"time": error.time, "message": error.message, "internalCode": error.internal_code}
    known = {name: value for name, value in fields.items() if value is not None}
    if representation is Representation.JSON:
        return json.dumps({"error": known}).encode()
    inner = "".join(f"<{name}>{_xml_text(str(value))}</{name}>" for name, value in known.items())
    return f'<?xml version="1.0" encoding="UTF-8"?><error>{inner}</error>'.encode()


def parse_json(body: bytes, *, strict: bool = False) -> object:
    """A JSON document with `Number` for its numbers; raises Broken.

    Of repeated keys the last one counts, as everywhere; with `strict` they are refused.
    """
    try:
        value: object = (_STRICT if strict else _LENIENT).decode(body.decode())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise Broken(f"JSON document: {error}") from error
    except RecursionError as error:
        raise _too_deep("JSON") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        _bound_depth(value)
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise Broken(f"JSON document: expected a number, got {constant}")


def _refuse_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Broken("JSON document: expected each key once in an object, got one repeated")
    return members


_LENIENT = json.JSONDecoder(parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)
_STRICT = json.JSONDecoder(
    parse_int=Number,
    parse_float=Number,
    parse_constant=_refuse_constant,
    object_pairs_hook=_refuse_repeats,
)


def _bound_depth(value: object) -> None:
    layer = [value]
    for _ in range(MAX_DEPTH):
        layer = [child for node in layer for child in _containers(node)]
        if not layer:
            return
    raise _too_deep("JSON")


def _containers(node: object) -> list[object]:
    members = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [member for member in members if isinstance(member, dict | list)]


def _too_deep(kind: str) -> Broken:
    return Broken(f"{kind} document: nested deeper than {MAX_DEPTH}")


def _parse_xml(body: bytes) -> Element:
    # UTF-16 and UTF-32 are recognised by expat without being declared; both need NULs, which XML has not.
    if b"\0" in body:
        raise Broken("XML document: expected UTF-8, US-ASCII or ISO-8859-1, got a NUL byte")
    tree = _Tree()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.XmlDeclHandler = _check_encoding
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = tree.start
    parser.CharacterDataHandler = tree.text
    parser.EndElementHandler = tree.end
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise Broken(f"XML document: {error}") from error
    return tree.open[0]


class _Tree:
    """What expat calls back: the elements that are open, outermost first."""

    __slots__ = ("open",)

    def __init__(self) -> None:
        self.open = [Element("", {}, [])]

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self.open) > MAX_DEPTH:
            raise _too_deep("XML")
        element = Element(name, attributes, [])
        self.open[-1].children.append(element)
        self.open.append(element)

    def text(self, data: str) -> None:
        self.open[-1].children.append(data)

    def end(self, _name: str) -> None:
        self.open.pop()


def _check_encoding(_version: str, encoding: str | None, _standalone: int) -> None:
    if encoding is not None and encoding.lower() not in _ENCODINGS:
        raise Broken("XML document: expected UTF-8, US-ASCII or ISO-8859-1, got another declared encoding")


def _refuse_doctype(*_declaration: object) -> None:
    raise Broken("XML document: a document type declaration is not taken")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _child(node: object, name: str) -> object:
    if isinstance(node, dict):
        return node.get(name)
    if isinstance(node, Element):
        elements = (child for child in node.children if isinstance(child, Element))
        return next((element for element in elements if _local(element.name) == name), None)
    return None


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node.children if isinstance(node, Element) else ()


def _links(node: object) -> Iterable[object]:
    """The link objects of an object, be they one or an array, or the link elements of an element."""
    if isinstance(node, Element):
        elements = (child for child in node.children if isinstance(child, Element))
        return [child for child in elements if child.name == "link" or child.name.endswith(":link")]
    links = _child(node, "link")
    return links if isinstance(links, list) else (links,)


def _attribute(node: object, name: str) -> str | None:
    """An attribute of an element, or what stands for it in JSON: the member, or its `@` twin."""
    if isinstance(node, Element):
        return next((value for key, value in node.attributes.items() if _local(key) == name), None)
    value = _child(node, f"@{name}") or _child(node, name)
    return value if isinstance(value, str) else None


def _text(node: object) -> str | None:
    """The text of a JSON string or number, or of an element without elements; round that, space is layout."""
    if isinstance(node, str):
        return node
    if isinstance(node, Element):
        texts = [child for child in node.children if isinstance(child, str)]
        return "".join(texts).strip() if len(texts) == len(node.children) else None
    return None


def _seconds(text: str | None) -> float | None:
    if text is None or not _DECIMAL.fullmatch(text):
        return None
    seconds = float(text)
    return seconds if 0 < seconds <= MAX_CHAT_TIMEOUT_S else None


def _without(node: object, names: frozenset[str]) -> object:
    """The document as nested built-ins whose `ascii` tells any two apart."""
    # Most nodes are strings: asked here, they cost no call.
    if isinstance(node, dict):
        return {
            key: value if isinstance(value, str) else _without(value, names)
            for key, value in node.items()
            if key not in names
        }
    if isinstance(node, list):
        return [_without(child, names) for child in node]
    if isinstance(node, Element):
        attributes = {name: value for name, value in node.attributes.items() if _local(name) not in names}
        rest = [
            child if isinstance(child, str) else _without(child, names)
            for child in node.children
            if isinstance(child, str) or _local(child.name) not in names
        ]
        return (node.name, attributes, rest)
    return node


def _xml_text(text: str) -> str:
    return html.escape(_NOT_XML.sub("\ufffd", text))
