"""Trees to JSON and XML, and bodies back to trees.

A tree is what JSON can say; keys that begin with `@` are XML attributes, lists are repeated elements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from gateway.emulator.config import JsonStyle

Tree = str | int | float | bool | Mapping[str, "Tree"] | Sequence["Tree"]

_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,6})?")
_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_DECLARATION = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'


class BodyError(ValueError):
    """A request's body that is no document."""


@dataclass(frozen=True, slots=True)
class Document:
    """A tree under its root. A `bare` one has its root in XML only."""

    root: str
    tree: Tree
    bare: bool = False


def to_json(document: Document, style: JsonStyle) -> bytes:
    """The document in a JSON dialect."""
    tree = _shaped(document.tree, style)
    whole = tree if document.bare else {document.root: tree}
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def to_xml(document: Document) -> bytes:
    """The document's XML twin."""
    return (_DECLARATION + _element(document.root, document.tree)).encode(errors="replace")


def _shaped(tree: Tree, style: JsonStyle) -> Tree:
    if isinstance(tree, str):
        return _coerced(tree) if style.coerce else tree
    if isinstance(tree, Mapping):
        return {
            (key if style.at else key.lstrip("@")): str(value)
            if style.at and key[0] == "@"
            else _shaped(value, style)
            for key, value in tree.items()
            if not (style.omit_empty and isinstance(value, list) and not value)
        }
    if isinstance(tree, Sequence):
        return (
            _shaped(tree[0], style)
            if style.collapse and len(tree) == 1
            else [_shaped(item, style) for item in tree]
        )
    return tree


def _coerced(text: str) -> Tree:
    if not _NUMBER.fullmatch(text):
        return text
    return float(text) if "." in text else int(text)


def _element(name: str, tree: Tree) -> str:
    if not isinstance(tree, Mapping):
        return f"<{name}>{escape(_text(tree))}</{name}>"
    attributes = "".join(
        f" {key[1:]}={quoteattr(_text(value))}" for key, value in tree.items() if key[0] == "@"
    )
    children = "".join(
        _element(key, item) for key, value in tree.items() if key[0] != "@" for item in _repeated(value)
    )
    return f"<{name}{attributes}>{children}</{name}>" if children else f"<{name}{attributes}/>"


def _repeated(value: Tree) -> Sequence[Tree]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def _text(value: Tree) -> str:
    return str(value).lower() if isinstance(value, bool) else _NOT_XML.sub("?", str(value))


def scalar(tree: Tree | None, default: str = "") -> str:
    """A leaf as text; the default for what is no leaf, or missing."""
    return str(tree) if isinstance(tree, str | int | float) else default


def parse_body(body: bytes, content_type: bytes) -> Mapping[str, Tree]:
    """A request's body as a tree with its root; BodyError if it is none."""
    return _parse_xml(body) if b"xml" in content_type else _parse_json(body)


def _parse_json(body: bytes) -> Mapping[str, Tree]:
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BodyError("request body does not contain a valid JSON statement!") from error
    if not isinstance(tree, dict):
        raise BodyError("request body does not contain a valid JSON statement!")
    return tree


def _parse_xml(body: bytes) -> Mapping[str, Tree]:
    builder = _XmlBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.StartDoctypeDeclHandler = builder.doctype
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise BodyError("request body does not contain a valid XML document!") from error
    return builder.root


class _XmlBuilder:
    """Elements become mappings, those without attributes or children text, repeated ones lists."""

    def __init__(self) -> None:
        self.root: dict[str, Tree] = {}
        self._open: list[tuple[dict[str, Tree], list[str]]] = [(self.root, [])]

    def start(self, _name: str, attributes: dict[str, str]) -> None:
        self._open.append(({f"@{key}": value for key, value in attributes.items()}, []))

    def text(self, data: str) -> None:
        self._open[-1][1].append(data)

    def end(self, name: str) -> None:
        members, text = self._open.pop()
        _add(self._open[-1][0], name, members or "".join(text))

    @staticmethod
    def doctype(*_: object) -> None:
        raise BodyError("request body does not contain a valid XML document!")


def _add(parent: dict[str, Tree], name: str, tree: Tree) -> None:
    if name in parent:
        parent[name] = [*_repeated(parent[name]), tree]
    else:
        parent[name] = tree
