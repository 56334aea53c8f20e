"""What can be meant in `gateway.yaml` and `clients/*.yaml` but hardly is: it starts, with a warning."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from gateway.config.addresses import RedisPlace
from gateway.config.clients import ClientRow, ViewRow, perhaps
from gateway.config.documents import Document
from gateway.config.mistakes import KeyPath, Mistake, dotted, quoted
from gateway.config.settings import Redis, Settings
from gateway.core.peers import is_loopback
from gateway.core.policy import Client, Condition, Resource, VisitorIp
from gateway.core.views import ALSO, KNOWN_FIELDS

# A place in the row, what was expected there, what is.
_Doubt = tuple[KeyPath, str, str]
# What a client may do: a resource's name and a method.
_Uses = frozenset[tuple[str, str]]


def doubts(
    row: ClientRow,
    name: str,
    document: Document,
    resources: Sequence[Resource] | None,
    named_by: Mapping[str, str],
    *,
    shares: bool,
) -> Iterator[Mistake]:
    """Warnings about a client's row: what does nothing, or not what it looks like.

    `resources` are None where nobody knows them. `named_by` has the claim that names the client, by issuer.
    `shares`: there is a Redis in which replicas can count together.
    """
    found = [
        *(_doubtful_fields(row.view) if row.view else ()),
        *(_idle_parts(row, resources) if resources is not None else ()),
        *(() if shares else _inexact_limits(row)),
        # A shadow goes by its conditions alone.
        *(_unmet_conditions(row, name, named_by) if row.mode != "shadow" else ()),
    ]
    for path, expected, got in found:
        yield as_warning(document.mistake(("clients", name, *path), expected, got))


def doubts_of_settings(settings: Settings, document: Document) -> Iterator[Mistake]:
    """Warnings about shared state: what is said does nothing, or tells a password to the network."""
    for path, expected, got in _doubts_of_redis(settings.redis_url, settings.redis):
        yield as_warning(document.mistake(("redis", *path), expected, got))


def _doubts_of_redis(place: RedisPlace | None, said: Redis) -> Iterator[_Doubt]:
    if place is None:
        if said != Redis():
            yield (), "redis_url beside it, as nothing is shared without", "none"
        return
    of_sentinel = ("sentinel_username", "sentinel_password_file")
    for name in of_sentinel if place.master is None else ():
        if getattr(said, name) is not None:
            yield (name,), "no such key, as redis_url names no Sentinel", "one"
    for before in ("", "sentinel_"):
        username, password_file = f"{before}username", f"{before}password_file"
        if getattr(said, username) is not None and getattr(said, password_file) is None:
            yield (username,), f"{password_file} beside it", "none"
    if not place.tls and not all(is_loopback(address.host) for address in place.addresses):
        for name in ("password_file", "sentinel_password_file"):
            if getattr(said, name) is not None:
                yield (name,), "rediss in redis_url, as the network can read the password", "redis"


def as_warning(mistake: Mistake) -> Mistake:
    return replace(mistake, severity="warning")


def _inexact_limits(row: ClientRow) -> Iterator[_Doubt]:
    if row.limits and row.limits.limits().exact:
        expected = "redis_url in the settings, as each process counts for itself without"
        yield ("limits", "shared"), expected, "none"


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


def _idle_parts(row: ClientRow, resources: Sequence[Resource]) -> Iterator[_Doubt]:
    allowed, denied = _uses(row.allow, resources), _uses(row.deny, resources)
    usable = allowed - denied - _withheld(row, resources)
    yield from _idle_entries(row, resources, allowed - denied, usable)
    for index, entry in enumerate(row.deny):
        if not _uses((entry,), resources) & allowed:
            yield ("deny", index), "an entry that takes away something of allow", quoted(entry)
    names = {name for name, _ in usable}
    for name in row.limits.resources if row.limits else ():
        if name not in names:
            yield ("limits", "resources", name), "a resource that the client may use", dotted((name,))
    methods = {resource.name: resource.methods for resource in resources}
    actions = {methods[name][method] for name, method in usable}
    if row.chats and not actions & {"chat:read", "chat:write"}:
        yield ("chats",), "no such key, as the client may use nothing of a chat", "a map"
    yield from _doubtful_address(row, may_start="chat:start" in actions)


def _idle_entries(
    row: ClientRow, resources: Sequence[Resource], not_denied: _Uses, usable: _Uses
) -> Iterator[_Doubt]:
    for index, entry in enumerate(row.allow):
        meant = _uses((entry,), resources)
        if not meant & usable:
            taker = "view" if meant & not_denied else "deny"
            yield ("allow", index), f"an entry that {taker} leaves something of", quoted(entry)


def _doubtful_address(row: ClientRow, *, may_start: bool) -> Iterator[_Doubt]:
    at = ("visitor_ip",)
    if may_start and "visitor_ip" not in row.model_fields_set:
        choices = ", ".join(choice.value for choice in VisitorIp)
        yield at, f"one of {choices}, as the client may start chats", "nothing, which is pass"
    if not may_start and row.visitor_ip != VisitorIp.PASS.value:
        yield at, "no such key, as the client may not start chats", row.visitor_ip


def _uses(entries: tuple[str, ...], resources: Sequence[Resource]) -> _Uses:
    """What entries of `allow` or `deny` stand for."""
    return frozenset(
        (resource.name, method)
        for resource in resources
        for method, action in resource.methods.items()
        if not {action, resource.name, f"{method} {resource.name}"}.isdisjoint(entries)
    )


def _withheld(row: ClientRow, resources: Sequence[Resource]) -> _Uses:
    """The reads of fields that the view withholds."""
    if row.view is None:
        return frozenset()
    shows = row.view.view().shows
    return frozenset(
        (resource.name, "GET") for resource in resources if resource.field and not shows(resource.field)
    )


def _unmet_conditions(row: ClientRow, name: str, named_by: Mapping[str, str]) -> Iterator[_Doubt]:
    """Conditions that no token of an issuer can meet, as it would have to name this client as well."""
    issuer, *others = row.match
    for one in issuer.any_of:
        for condition in others:
            if condition.claim == named_by.get(str(one)) and not condition.met_by(name):
                expected = (
                    f"one that {quoted(name)} meets, as tokens of {one} name their client in this claim"
                )
                yield ("match", condition.claim), expected, "another"


def can_both_match(first: Client, second: Client, named_by: Collection[str] = ()) -> bool:
    """Whether a token can be for two clients; those of the issuers `named_by` say themselves for which."""
    (one, *_), (other, *_) = first.match, second.match
    issuers = set(one.any_of).intersection(other.any_of).difference(named_by)
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
