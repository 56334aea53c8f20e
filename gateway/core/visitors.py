"""The visitor's address where a chat is started: `request.visitorIp` (server-chat-api §1.3).

Without it the vendor takes the address the request comes from, which is the gateway's for every visitor.
"""

from __future__ import annotations

import ipaddress
import re

from gateway.core.documents import Document, Element
from gateway.core.errors import Reason, Refusal
from gateway.core.hrefs import read_json
from gateway.core.messages import Representation
from gateway.core.policy import VisitorIp

_NAME = "visitorIp"
_JSON_TOKEN = re.compile(rb'[\[\]{}]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*:)?', re.DOTALL)
# What may stand before the root; its name; its attributes, which may hold `>`; whether it is all there is.
_XML_ROOT = re.compile(
    rb"<!--.*?-->|<\?.*?\?>|<([^\s<>/!?]+)(?:\s+[^\s=<>/]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*(/?)>", re.DOTALL
)


def with_visitor_ip(
    body: bytes, representation: Representation, rule: VisitorIp, forwarded: str | None
) -> bytes | Refusal:
    """The well-formed body of a start of a chat with the visitor's address in it, as the policy wants it.

    `forwarded` is the address that X-Forwarded-For gives, if it may be believed. What the body says itself
    goes first, and must be an address. Every other byte stays.
    """
    if rule is VisitorIp.PASS:
        return body
    said = _said(Document.parse(body, representation, strict=True).root)
    if said is not None and len(said) == 1 and _is_address(said[0]):
        return body
    if said != [] or rule is VisitorIp.REQUIRE or forwarded is None:
        return Refusal(Reason.VISITOR_IP_MISSING)
    return (_into_json if representation is Representation.JSON else _into_xml)(body, forwarded)


def _said(root: object) -> list[object] | None:
    """What the body calls the visitor's address, however often; None if it holds no request at all."""
    match root:
        case {"request": dict(request)}:
            return [request[_NAME]] if _NAME in request else []
        case Element(children=[Element(name=name, children=children)]) if _local(name) == "request":
            elements = [child for child in children if isinstance(child, Element)]
            return [_text(element) for element in elements if _local(element.name) == _NAME]
        case _:
            return None


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _text(element: Element) -> str | None:
    texts = [child for child in element.children if isinstance(child, str)]
    return "".join(texts) if len(texts) == len(element.children) else None


def _is_address(said: object) -> bool:
    # A zone (`fe80::1%eth0`) means something on one machine only.
    if not isinstance(said, str) or "%" in said:
        return False
    try:
        ipaddress.ip_address(said)
    except ValueError:
        return False
    return True


def _into_json(body: bytes, address: str) -> bytes:
    at = _request_in_json(body)
    comma = "" if body[at:].lstrip().startswith(b"}") else ","
    return body[:at] + f'"{_NAME}":"{address}"{comma}'.encode() + body[at:]


def _request_in_json(body: bytes) -> int:
    """Where the first member of the root's `request` would stand."""
    depth, is_request = 0, False
    for token in _JSON_TOKEN.finditer(body):
        mark = body[token.start()]
        if mark in b"[{":
            if is_request:
                return token.end()
            depth += 1
        elif mark in b"]}":
            depth -= 1
        elif depth == 1 and token[2] is not None:
            is_request = read_json(token[1]) == "request"
    raise AssertionError("a request was there when the body was parsed")


def _into_xml(body: bytes, address: str) -> bytes:
    root = next(markup for markup in _XML_ROOT.finditer(body) if markup[1])
    prefix, colon, _ = root[1].rpartition(b":")
    name = prefix + colon + _NAME.encode()
    element = b"<%b>%b</%b>" % (name, address.encode(), name)
    if not root[2]:
        return body[: root.end()] + element + body[root.end() :]
    return body[: root.start(2)] + b">" + element + b"</" + root[1] + b">" + body[root.end() :]
