"""What a policy lets through, written a second time: from docs/policies.md and docs/views.md alone.

Nothing here asks `gateway.core` for a decision; only its values are read. Documents are laid out as the
emulator lays them out: JSON without white space, XML without comments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from gateway.core.policy import Client, Condition
from gateway.core.views import View

#: What each resource takes (policies/resources.yaml).
ACTIONS: Mapping[str, Mapping[str, str]] = {
    "info": {"GET": "chat:read"},
    "chat": {"GET": "chat:read"},
    "events": {"GET": "chat:read", "POST": "chat:write"},
    "event": {"GET": "chat:read"},
    "visitorName": {"GET": "chat:read", "PUT": "chat:write"},
    "visitorTyping": {"GET": "chat:read", "PUT": "chat:write"},
    "agentTyping": {"GET": "chat:read"},
    "account": {"GET": "account:read"},
    "availability": {"GET": "account:read"},
    "preSurvey": {"GET": "account:read"},
}
FIELDS_OF_THEIR_OWN = {"visitorName", "visitorTyping", "agentTyping"}
#: docs/views.md, "What a name stands for" and "The same fact under another name".
NEED_NOT_BE_LISTED = {"chat", "info", "events", "event", "link", "href", "rel"}
WITHHELD_WITH = {
    "by": {"agentName", "visitorName"},
    "time": {"startTime"},
    "duration": {"startTime"},
    "systemMessageId": {"state"},
    "skill": {"skillName"},
    "a2aSourceSessionId": {"chatSessionKey"},
    "agent": {"agentId", "agentName"},
    "visitorProfile": {"visitorId"},
    "LETagVisitorId": {"sharkVisitorId"},
    "LETagSessionId": {"sharkSessionId"},
    "LETagContextId": {"sharkContextId"},
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as policies see it. `chat` is None for what belongs to none; HEAD is a GET."""

    account: str
    chat: str | None
    resource: str
    method: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a request is refused (None: it is not), by which rules it may be so, and whose it is."""

    reason: str | None
    rules: frozenset[str | None] = frozenset({None})
    client: Client | None = None


def decide(
    claims: Mapping[str, object], clients: Iterable[Client], revoked: Collection[str], asked: Asked
) -> Decision:
    """docs/policies.md, "How it is decided", for a token that was accepted."""
    matching = [client for client in clients if all(_is_met(each, claims) for each in client.match)]
    if len(matching) != 1:
        return Decision("ambiguous" if matching else "no-client")
    client = matching[0]
    reason, tails = _decide(client, client.name in revoked, claims, asked)
    return Decision(reason, frozenset(f"{client.name}/{tail}" for tail in tails), client)


def _is_met(condition: Condition, claims: Mapping[str, object]) -> bool:
    value = claims.get(condition.claim)
    if condition.prefix is not None:
        return isinstance(value, str) and value[: len(condition.prefix)] == condition.prefix
    return (type(value), value) in {(type(each), each) for each in condition.any_of}


def _decide(
    client: Client, is_revoked: bool, claims: Mapping[str, object], asked: Asked
) -> tuple[str | None, Iterable[str]]:
    """The rows of the table in that section; the first that applies decides."""
    named = {ACTIONS[asked.resource][asked.method], asked.resource, f"{asked.method} {asked.resource}"}
    denied, allowed = named & set(client.deny), named & set(client.allow)
    is_field_read = asked.resource in FIELDS_OF_THEIR_OWN and asked.method == "GET"
    table: list[tuple[bool, str | None, list[str]]] = [
        (is_revoked, "token-revoked", ["revoked"]),
        (asked.account not in (client.accounts or {asked.account}), "account-denied", ["accounts"]),
        (bool(denied), "action-denied", [f"deny/{entry}" for entry in denied]),
        (_is_of_another_chat(client, claims, asked), "chat-denied", ["chats"]),
        (is_field_read and not shows(client.view, asked.resource), "field-denied", ["view"]),
        (bool(allowed), None, [f"allow/{entry}" for entry in allowed]),
        (True, "action-denied", ["default-deny"]),
    ]
    return next((reason, tails) for applies, reason, tails in table if applies)


def _is_of_another_chat(client: Client, claims: Mapping[str, object], asked: Asked) -> bool:
    return None not in {client.chats, asked.chat} and claims.get(client.chats or "") != asked.chat


def shows(view: View, name: str) -> bool:
    """Whether a view shows a field of that name."""
    names = {name} | WITHHELD_WITH.get(name, set())
    if view.show is not None:
        return names <= view.show | NEED_NOT_BE_LISTED
    return not names & (view.hide or set())


def cut(body: bytes, content_type: str, keeps: Callable[[str], bool]) -> bytes:
    """A document of the emulator's without the fields that are not kept, byte for byte."""
    if not body:
        return body
    if "xml" in content_type:
        return _cut_xml(body.decode(), keeps).encode()
    said = _cut_json(json.loads(body), keeps)
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False).encode()


def _cut_json(said: object, keeps: Callable[[str], bool]) -> object:
    if isinstance(said, list):
        return [_cut_json(each, keeps) for each in said]
    if isinstance(said, dict):
        return {name: _cut_json(each, keeps) for name, each in said.items() if keeps(name.removeprefix("@"))}
    return said


def _cut_xml(text: str, keeps: Callable[[str], bool]) -> str:
    kept: list[str] = []
    depth = gone = 0  # `gone` is the depth of the element that goes
    for piece in re.split(r"(<[^>]*>)", text):
        begins = re.match(r"<([^\s/>?]+)", piece)
        ends = piece.startswith("</") or piece.endswith("/>")
        depth += begins is not None
        if begins and not gone and not keeps(begins[1]):
            gone = depth
        # Of a root that goes the bare tags stay.
        is_root_that_goes = gone == depth == 1 and (begins is not None or ends)
        if is_root_that_goes or not gone:
            kept.append(re.sub(r'\s([^\s=]+)="[^"]*"', _attribute(keeps, gone), piece) if begins else piece)
        if ends:
            gone = 0 if gone == depth else gone
            depth -= 1
    return "".join(kept)


def _attribute(keeps: Callable[[str], bool], gone: int) -> Callable[[re.Match[str]], str]:
    return lambda found: found[0] if not gone and keeps(found[1]) else ""
