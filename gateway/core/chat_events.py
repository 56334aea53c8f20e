"""The events of a chat, one by one: their ids, and where each stands in the document.

server-chat-api §1.3: `events.event` is an array, a single object where there is only one, or not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.core.documents import Document, Element
from gateway.core.hrefs import Span, read_json
from gateway.core.messages import Representation

_TOKEN = re.compile(rb'[\[\]{}]|"([^"\\]*+(?:\\.[^"\\]*+)*+)"(\s*+:)?', re.DOTALL)
_ID = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ChatEvent:
    """What is asked of an event. `number` is None where its id is none; `ends` if the chat ends with it."""

    number: int | None
    ends: bool


def chat_events(body: bytes) -> tuple[ChatEvent, ...]:
    """The events of a well-formed JSON document, in its order."""
    said = _member(_member(Document.parse(body, Representation.JSON).root, "events"), "event")
    return tuple(map(_event, said if isinstance(said, list) else [] if said is None else [said]))


def _member(node: object, name: str) -> object:
    return node.get(name) if isinstance(node, dict) else None


def _event(said: object) -> ChatEvent:
    number = _said(said, "id")
    is_number = isinstance(number, str) and _ID.fullmatch(number) is not None
    ends = _said(said, "type") == "state" and _said(said, "state") == "ended"
    return ChatEvent(int(str(number)) if is_number else None, ends)


def _said(said: object, name: str) -> object:
    return _member(said, f"@{name}") or _member(said, name)


def has_events(body: bytes, representation: Representation) -> bool:
    """Whether there is any event in a well-formed document."""
    if representation is Representation.JSON:
        return bool(chat_events(body))
    root = Document.parse(body, representation).root
    return any(_named(child, "event") for events in _elements(root) for child in events.children)


def _elements(root: object) -> Iterator[Element]:
    children = root.children if isinstance(root, Element) else ()
    return (child for child in children if isinstance(child, Element))


def _named(node: Element | str, name: str) -> bool:
    return isinstance(node, Element) and node.name.rpartition(":")[2] == name


def event_spans(body: bytes) -> list[Span]:
    """Where the events stand in a well-formed JSON document, in its order."""
    spans: list[Span] = []
    keys: list[str] = [""]  # of each open container the key that was read last; in arrays none
    start = 0
    for token in _TOKEN.finditer(body):
        mark = body[token.start()]
        if mark in b"[{":
            keys.append("")
            if mark == ord("{") and _is_event(keys):
                start = token.start()
        elif mark in b"]}":
            if mark == ord("}") and _is_event(keys):
                spans.append((start, token.end()))
            keys.pop()
        elif token[2] is not None:
            keys[-1] = read_json(token[1])
            if keys[1:] in (["events"], ["events", "event"]):
                # Of repeated keys the last one counts.
                spans.clear()
    return spans


def _is_event(keys: list[str]) -> bool:
    """Whether the innermost container is an event: in the member, or in its array."""
    around = keys[1:-1]
    return around in (["events", "event"], ["events", "event", ""])
