"""What a change of policies changes: whose requests end otherwise, and what else was written down.

An outcome is what `core.access` says of a token that is the client's, for an account it may use and the chat
that it is for. So a change of accounts, chats or claims is told by itself, and not again for every resource.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gateway.config.policies import PATTERNS
from gateway.core.access import ALLOW, Claims, admit
from gateway.core.errors import Reason, Refusal
from gateway.core.limits import UNLIMITED, Limits, Rate
from gateway.core.messages import Chat, Representation
from gateway.core.paths import Target
from gateway.core.policy import CacheRule, Client, Condition, Policies, Resource
from gateway.core.views import View

#: What is not there on one side.
NOTHING = "nothing"

_PATTERN_NAMES = {pattern: name for name, pattern in PATTERNS.items()}
_CHAT = "0-0"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`allow` or a reason's slug, and the rule that says so, if one does."""

    outcome: str
    rule: str | None = None

    def __str__(self) -> str:
        return self.outcome if self.rule is None else f"{self.outcome} by {self.rule}"


@dataclass(frozen=True, slots=True)
class Turned:
    """A client's requests that were allowed and are no more, or the other way round."""

    client: str
    method: str
    resource: str
    before: Outcome
    after: Outcome

    def __str__(self) -> str:
        return f"client {self.client}: {self.method} {self.resource}: {self.before}, now {self.after}"


@dataclass(frozen=True, slots=True)
class Altered:
    """A part of a client or a resource that is written differently. `kind` says of which."""

    kind: str
    name: str
    key: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.key}: {self.before}, now {self.after}"


@dataclass(frozen=True, slots=True)
class Changes:
    """All of them. Names of clients and resources are `client partner`, `resource info`."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    turned: tuple[Turned, ...]
    altered: tuple[Altered, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """A sentence for each."""
        return (
            *(f"{name}: added" for name in self.added),
            *(f"{name}: removed" for name in self.removed),
            *map(str, self.turned),
            *map(str, self.altered),
        )


def changes(old: Policies, new: Policies) -> Changes:
    """What is otherwise in the new policies; nothing where they mean the same."""
    before, after = _written(old), _written(new)
    return Changes(
        tuple(" ".join(thing) for thing in after if thing not in before),
        tuple(" ".join(thing) for thing in before if thing not in after),
        tuple(_turned(old, new)),
        tuple(
            change
            for thing, parts in before.items()
            if thing in after
            for change in _altered(*thing, parts, after[thing])
        ),
    )


# -- outcomes ----------------------------------------------------------------------------------------------


def _turned(old: Policies, new: Policies) -> Iterator[Turned]:
    before, after = _Side.of(old), _Side.of(new)
    for client, resource, method in dict.fromkeys((*before.uses(), *after.uses())):
        first = before.outcome(client, resource, method)
        second = after.outcome(client, resource, method)
        if (first.outcome == ALLOW) != (second.outcome == ALLOW):
            yield Turned(client, method, resource, first, second)


@dataclass(frozen=True, slots=True)
class _Side:
    """One of two policies. A client in shadow mode decides nothing, so it is as if it were not there."""

    policies: Policies
    clients: Mapping[str, Client]
    resources: Mapping[str, Resource]

    @classmethod
    def of(cls, policies: Policies) -> _Side:
        clients = {client.name: client for client in policies.clients}
        return cls(policies, clients, {resource.name: resource for resource in policies.resources})

    def uses(self) -> Iterator[tuple[str, str, str]]:
        """Each client, with each resource and method."""
        for client in self.clients:
            for name, resource in self.resources.items():
                yield from ((client, name, method) for method in resource.methods)

    def outcome(self, client_name: str, resource_name: str, method: str) -> Outcome:
        client, resource = self.clients.get(client_name), self.resources.get(resource_name)
        if client is None:
            return Outcome(Reason.NO_CLIENT.slug)
        if resource is None:
            return Outcome(Reason.UNKNOWN_RESOURCE.slug)
        if method not in resource.methods:
            return Outcome(Reason.METHOD_NOT_ALLOWED.slug)
        account = min(client.accounts) if client.accounts else "0"
        chat = Chat(account, _CHAT) if resource.of_chat else None
        target = Target(method, account, chat, resource, Representation.JSON, "", "", dropped=False)
        claims = Claims({} if client.chats is None else {client.chats: _CHAT}, math.inf)
        decided = admit(client, claims, self.policies, target, lambda _: False)
        if isinstance(decided, Refusal):
            return Outcome(decided.reason.slug, decided.rule)
        return Outcome(ALLOW, decided.rule)


# -- what was written --------------------------------------------------------------------------------------


def _written(policies: Policies) -> Mapping[tuple[str, str], Mapping[str, str]]:
    """The parts of each client and resource, in words that differ where their meaning does."""
    modes = ((policies.clients, "enforce"), (policies.shadows, "shadow"))
    clients = {
        ("client", client.name): {"mode": mode, **_client_parts(client)}
        for those, mode in modes
        for client in those
    }
    resources = {("resource", resource.name): _resource_parts(resource) for resource in policies.resources}
    return {**clients, **resources}


def _altered(kind: str, name: str, before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[Altered]:
    for key in {**before, **after}:
        first, second = before.get(key, NOTHING), after.get(key, NOTHING)
        if first != second:
            yield Altered(kind, name, key, first, second)


def _client_parts(client: Client) -> dict[str, str]:
    return {
        **{f"match.{condition.claim}": _condition(condition) for condition in client.match},
        "accounts": "*" if client.accounts is None else _listed(client.accounts),
        **({} if client.chats is None else {"chats": f"claim {client.chats}"}),
        "allow": _listed(client.allow),
        **({"deny": _listed(client.deny)} if client.deny else {}),
        **_view_parts(client.view),
        **_limits_parts("limits", client.limits),
        **({"limits.shared": "exact"} if client.limits.exact else {}),
        "priority": client.priority.label,
        "visitor_ip": client.visitor_ip.value,
    }


def _condition(condition: Condition) -> str:
    if condition.prefix is not None:
        return f"prefix {json.dumps(condition.prefix)}"
    return " or ".join(sorted(map(json.dumps, condition.any_of)))


def _view_parts(view: View) -> dict[str, str]:
    lists = {"view.show": view.show, "view.hide": view.hide}
    return {key: _listed(names) for key, names in lists.items() if names is not None}


def _limits_parts(key: str, limits: Limits) -> dict[str, str]:
    own = {
        f"{key}.requests": None if limits.requests is None else _rate(limits.requests),
        f"{key}.requests_per_day": limits.requests_per_day,
        f"{key}.fetches": None if limits.fetches is None else _rate(limits.fetches),
        f"{key}.in_flight": limits.in_flight,
    }
    parts = {name: str(said) for name, said in own.items() if said is not None}
    if limits.streams != UNLIMITED.streams:
        parts[f"{key}.streams"] = str(limits.streams)
    for resource, further in limits.resources.items():
        parts |= _limits_parts(f"{key}.resources.{resource}", further)
    return parts


def _rate(rate: Rate) -> str:
    # What is no whole number a second was written as one a minute.
    whole = rate.per_s == int(rate.per_s)
    often = f"{int(rate.per_s)} a second" if whole else f"{round(rate.per_s * 60)} a minute"
    return f"{often}, {rate.burst} at once"


def _resource_parts(resource: Resource) -> dict[str, str]:
    query = {
        f"query.{name}": _PATTERN_NAMES.get(pattern, pattern.pattern)
        for name, pattern in resource.query.items()
    }
    return {
        "path": "/".join(resource.path) or '""',
        **{f"methods.{method}": action for method, action in resource.methods.items()},
        **query,
        "representations": _listed(one.value for one in resource.representations),
        "coalesce": str(resource.coalesce).lower(),
        **({} if resource.cache is None else _cache_parts(resource.cache)),
        **({} if resource.stream is None else {"stream": resource.stream.value}),
        **({"from_info": "true"} if resource.from_info else {}),
    }


def _cache_parts(cache: CacheRule) -> dict[str, str]:
    ttl = {f"cache.ttl_ms.{state}": f"{ttl_s * 1000:.0f}" for state, ttl_s in cache.ttl_s.items()}
    volatile = {"cache.volatile": _listed(cache.volatile)} if cache.volatile else {}
    return {**ttl, "cache.stale_ms": f"{cache.stale_s * 1000:.0f}", **volatile}


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))
