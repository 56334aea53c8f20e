"""What can be meant in `clients/*.yaml` but hardly is: it starts, with a warning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gateway.config.clients import ClientRow, Methods, ViewRow, perhaps
from gateway.config.documents import Document
from gateway.config.mistakes import KeyPath, Mistake, dotted, quoted
from gateway.core.policy import Client, Condition, VisitorIp
from gateway.core.views import ALSO, KNOWN_FIELDS

# A place in the row, what was expected there, what is.
_Doubt = tuple[KeyPath, str, str]


def doubts(row: ClientRow, at: KeyPath, document: Document, resources: Methods | None) -> Iterator[Mistake]:
    """Warnings about a row that stands at `at`: what does nothing, or not what it looks like."""
    found = [
        *(_doubtful_fields(row.view) if row.view else ()),
        *(_idle_parts(row, resources) if resources is not None else ()),
    ]
    for path, expected, got in found:
        yield replace(document.mistake(at + path, expected, got), severity="warning")


def _doubtful_fields(view: ViewRow) -> Iterator[_Doubt]:
    for key, names in (("show", view.show), ("hide", view.hide)):
        for index, name in enumerate(names):
            if name not in KNOWN_FIELDS:
                expected = "a field that the upstream is known to send" + perhaps(name, sorted(KNOWN_FIELDS))
                yield ("view", key, index), expected, quoted(name)
    for index, name in enumerate(view.show):
        if not view.view().shows(name):
            expected = f"{' and '.join(sorted(ALSO[name]))} beside it, as it tells the same"
            yield ("view", "show", index), expected, f"{quoted(name)} alone, which is not shown so"


def _idle_parts(row: ClientRow, resources: Methods) -> Iterator[_Doubt]:
    allowed = _uses(row.allow, resources)
    usable = allowed - _uses(row.deny, resources)
    for index, entry in enumerate(row.allow):
        if not _uses((entry,), resources) & usable:
            yield ("allow", index), "an entry that deny leaves something of", quoted(entry)
    for index, entry in enumerate(row.deny):
        if not _uses((entry,), resources) & allowed:
            yield ("deny", index), "an entry that takes away something of allow", quoted(entry)
    names = {name for name, _ in usable}
    for name in row.limits.resources if row.limits else ():
        if name not in names:
            yield ("limits", "resources", name), "a resource that the client may use", dotted((name,))
    actions = {resources[name][method] for name, method in usable}
    if row.chats and not actions & {"chat:read", "chat:write"}:
        yield ("chats",), "no such key, as the client may use nothing of a chat", "a map"
    if row.visitor_ip != VisitorIp.PASS.value and "chat:start" not in actions:
        yield ("visitor_ip",), "no such key, as the client may not start chats", row.visitor_ip


def _uses(entries: tuple[str, ...], resources: Methods) -> frozenset[tuple[str, str]]:
    """The (resource, method) pairs that entries of `allow` or `deny` stand for."""
    return frozenset(
        (name, method)
        for name, methods in resources.items()
        for method, action in methods.items()
        if not {action, name, f"{method} {name}"}.isdisjoint(entries)
    )


def can_both_match(first: Client, second: Client, named_by: frozenset[str]) -> bool:
    """Whether a token can be for two clients; those of the issuers `named_by` say themselves for which."""
    (one, *_), (other, *_) = first.match, second.match
    issuers = set(one.any_of).intersection(other.any_of) - named_by
    others = {condition.claim: condition for condition in second.match}
    return bool(issuers) and all(
        _meet(condition, others[condition.claim]) for condition in first.match if condition.claim in others
    )


def _meet(one: Condition, other: Condition) -> bool:
    """Whether some value meets both."""
    if one.prefix is not None and other.prefix is not None:
        return one.prefix.startswith(other.prefix) or other.prefix.startswith(one.prefix)
    if one.prefix is not None:
        one, other = other, one
    return any(other.met_by(value) for value in one.any_of)
