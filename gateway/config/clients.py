"""The rows of `clients/*.yaml`: what may be written there."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from gateway.config.checking import (
    LISTED,
    Model,
    Wrong,
    context_of,
    one_of,
    refuse_any,
    text,
    whole,
    written_as,
    wrong,
)
from gateway.config.mistakes import KeyPath, dotted, shown
from gateway.core.limits import UNLIMITED, Limits, Rate
from gateway.core.policy import ACTIONS, Client, Condition, Priority, VisitorIp
from gateway.core.views import FULL, View

V = TypeVar("V")

#: What a resource or a client may be called.
NAME = r"[A-Za-z][A-Za-z0-9_-]{0,63}"

#: The methods of each resource and their actions, by its name.
Methods = Mapping[str, Mapping[str, str]]

# RFC 7519 §4.1: text wherever they are.
_TEXT_CLAIMS = ("iss", "sub", "jti")

_PRIORITIES = {priority.label: priority for priority in Priority}


def _given(value: V) -> V:
    # A key whose value was commented out must not mean "no limits" or "all fields".
    return wrong("a map", got="nothing") if value is None else value


def _doubled(entries: tuple[object, ...]) -> Iterator[Wrong]:
    for index, entry in enumerate(entries):
        first = entries.index(entry)
        if first != index:
            yield Wrong(f"each entry once (first as number {first + 1})", "it again", (index,))


def _each_once(entries: tuple[V, ...]) -> tuple[V, ...]:
    refuse_any(_doubled(entries))
    return entries


#: In front of maps: a key without a value is not the same as no key.
GIVEN = BeforeValidator(_given)


def perhaps(word: object, known: list[str]) -> str:
    """What somebody who wrote an unknown word may have meant."""
    close = difflib.get_close_matches(word, known, n=1) if isinstance(word, str) else ()
    return f" (perhaps {close[0]})" if close else ""


# -- match -------------------------------------------------------------------------------------------------


def _match(value: object, info: ValidationInfo) -> tuple[Condition, ...]:
    if not isinstance(value, dict):
        wrong("a map of claims, iss among them")
    refuse_any(_wrong_claims(value, context_of(info)["issuers"]))
    conditions = [_condition(claim, wanted) for claim, wanted in value.items()]
    return tuple(sorted(conditions, key=lambda condition: condition.claim != "iss"))


def _condition(claim: str, wanted: object) -> Condition:
    match wanted:
        case {"prefix": str(prefix)}:
            return Condition(claim, prefix=prefix)
        case {"one_of": [*values]}:
            return Condition(claim, tuple(values))
        case str() | int():
            return Condition(claim, (wanted,))
    raise AssertionError(wanted)  # pragma: no cover - _wrong_claims lets nothing else through


def _wrong_claims(match: Mapping[str, object], issuers: frozenset[str] | None) -> Iterator[Wrong]:
    for claim, wanted in match.items():
        if not claim or len(claim) > 128 or not claim.isprintable():
            yield Wrong("the name of a claim", shown((), claim), (claim,))
        elif claim == "aud":
            yield Wrong(_NO_AUDIENCE, "one", (claim,))
        elif isinstance(wanted, dict):
            yield from _wrong_choice(claim, wanted, issuers)
        else:
            yield from _wrong_value(claim, wanted, issuers, (claim,))
    if "iss" not in match:
        yield Wrong("iss among the claims", "none")


def _wrong_choice(
    claim: str, choice: Mapping[str, object], issuers: frozenset[str] | None
) -> Iterator[Wrong]:
    if choice.keys() == {"one_of"}:
        values = choice["one_of"]
        if not isinstance(values, list) or not values:
            yield Wrong(
                "a list of at least one value",
                "none" if values == [] else shown((), values),
                (claim, "one_of"),
            )
            return
        for index, value in enumerate(values):
            yield from _wrong_value(claim, value, issuers, (claim, "one_of", index), alone=False)
        # True equals 1 in Python, but not in a token.
        for one in _doubled(tuple((type(value), value) for value in values)):
            yield replace(one, at=(claim, "one_of", *one.at))
    elif choice.keys() == {"prefix"} and claim != "iss":
        if not _is_text(choice["prefix"]):
            yield Wrong(_TEXT, shown((claim,), choice["prefix"]), (claim, "prefix"))
    else:
        expected = "a text or one_of, as an issuer is never a guess" if claim == "iss" else "one_of or prefix"
        got = " and ".join(dotted((key,)) for key in choice) or "an empty map"
        yield Wrong(expected, got, (claim,))


def _wrong_value(
    claim: str, value: object, issuers: frozenset[str] | None, at: KeyPath, *, alone: bool = True
) -> Iterator[Wrong]:
    got = shown((claim,), value)
    if claim in _TEXT_CLAIMS:
        if not _is_text(value):
            yield Wrong("a text", got, at)
        elif claim == "iss" and issuers is not None and value not in issuers:
            yield Wrong("an issuer of the settings", got, at)
    elif not isinstance(value, int) and not _is_text(value):
        others = ", or a map with one_of or prefix" if alone else ""
        yield Wrong("a text, a whole number, true or false" + others, got, at)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 1024


# As a text it says nothing new, and as a list, which a token may have as well, it would meet nothing.
_NO_AUDIENCE = (
    "no condition on aud, as the issuer's audience is looked for anyway; tell clients apart by another claim"
)
_TEXT = "a text of 1 to 1024 characters"
_TEXT_SCHEMA: dict[str, object] = {"type": "string", "minLength": 1, "maxLength": 1024}
_VALUE_SCHEMA: dict[str, object] = {"anyOf": [_TEXT_SCHEMA, {"type": ["integer", "boolean"]}]}


def _condition_schema(value: dict[str, object], *, prefix: bool = True) -> dict[str, object]:
    choices = {"one_of": {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}}
    if prefix:
        choices["prefix"] = _TEXT_SCHEMA
    one = {"type": "object", "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    return {"anyOf": [value, {**one, "properties": choices}]}


_MATCH_SCHEMA = written_as(
    type="object",
    properties={claim: _condition_schema(_TEXT_SCHEMA, prefix=claim != "iss") for claim in _TEXT_CLAIMS}
    | {"aud": False},
    additionalProperties=_condition_schema(_VALUE_SCHEMA),
    propertyNames={"minLength": 1, "maxLength": 128},
    required=["iss"],
)


# -- accounts, allow, deny ---------------------------------------------------------------------------------


def _accounts(value: object, handler: Callable[[object], tuple[str, ...]], info: ValidationInfo) -> object:
    if value == "*":
        return None
    if not isinstance(value, list):
        wrong('a list of accounts of the settings, or "*"')
    if not value:
        wrong('at least one account, or "*"', got="none")
    accounts, known = handler(value), context_of(info)["accounts"]
    unknown = (
        Wrong("an account of the settings", shown((), account), (index,))
        for index, account in enumerate(accounts)
        if known is not None and account not in known
    )
    refuse_any([*unknown, *_doubled(accounts)])
    return accounts


_ACCOUNTS_SCHEMA = written_as(
    anyOf=[
        {"const": "*"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True},
    ]
)


def _entries(value: list[object], info: ValidationInfo) -> tuple[str, ...]:
    entries = tuple(value)
    refuse_any([*_unknown_entries(entries, context_of(info)["resources"]), *_doubled(entries)])
    return tuple(str(entry) for entry in entries)


def _unknown_entries(entries: tuple[object, ...], resources: Methods | None) -> Iterator[Wrong]:
    known = [*ACTIONS, *_entries_of(resources or {})]
    for index, entry in enumerate(entries):
        # Nobody knows what there is while resources.yaml can't be read.
        unread = resources is None and isinstance(entry, str) and re.fullmatch(_OF_RESOURCE, entry)
        if entry not in known and not unread:
            likely = perhaps(entry, known) or f" (actions are {', '.join(ACTIONS)})"
            yield Wrong(_ENTRY + likely, shown((), entry), (index,))


def _entries_of(resources: Methods) -> Iterator[str]:
    for name, methods in resources.items():
        yield name
        yield from (f"{method} {name}" for method in methods)


_ENTRY = "an action, a resource, or a method and a resource"
_OF_RESOURCE = f"((GET|POST|PUT) )?{NAME}"

Entries = Annotated[
    tuple[str, ...],
    PlainValidator(
        _entries,
        written_as(
            type="array",
            items={"anyOf": [{"enum": list(ACTIONS)}, {"type": "string", "pattern": f"^{_OF_RESOURCE}$"}]},
            uniqueItems=True,
        ),
    ),
    LISTED,
]


# -- view and limits ---------------------------------------------------------------------------------------


def _known_resources(value: Mapping[str, V], info: ValidationInfo) -> Mapping[str, V]:
    resources = context_of(info)["resources"]
    refuse_any(
        Wrong("a resource" + perhaps(name, list(resources)), dotted((name,)), (name,))
        for name in value
        if resources is not None and name not in resources
    )
    return value


def _one_key(*keys: str) -> ConfigDict:
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [key]} for key in keys]})


def _refuse_unless_one(model: Model, *keys: str) -> None:
    given = [key for key in keys if key in model.model_fields_set]
    if len(given) != 1:
        wrong(f"either {' or '.join(keys)}", got=" and ".join(given) or "neither")


Fields = Annotated[
    tuple[Annotated[str, text("the name of a field", r"[A-Za-z][A-Za-z0-9_-]{0,63}")], ...],
    LISTED,
    Field(min_length=1),
    AfterValidator(_each_once),
    Field(json_schema_extra={"uniqueItems": True}),
]


class ViewRow(Model):
    """Which fields of an answer a client gets to see: those that are listed, or all but those."""

    model_config = _one_key("show", "hide")

    show: Fields = ()
    hide: Fields = ()

    @model_validator(mode="after")
    def _is_one_list(self) -> ViewRow:
        _refuse_unless_one(self, "show", "hide")
        return self

    def view(self) -> View:
        return View(show=frozenset(self.show)) if self.show else View(hide=frozenset(self.hide))


class RateRow(Model):
    """So many a second or a minute on average, and so many at once."""

    model_config = _one_key("per_second", "per_minute")

    per_second: Annotated[int | None, whole(1, 100_000)] = None
    per_minute: Annotated[int | None, whole(1, 6_000_000)] = None
    burst: Annotated[int | None, whole(1, 100_000)] = None

    @model_validator(mode="after")
    def _has_one_unit(self) -> RateRow:
        _refuse_unless_one(self, "per_second", "per_minute")
        return self

    def rate(self) -> Rate:
        per_s = self.per_second or (self.per_minute or 0) / 60
        return Rate(per_s, self.burst or max(1, int(per_s)))


class ResourceLimitsRow(Model):
    """What a client may do with one resource."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    requests: Annotated[RateRow | None, GIVEN] = None
    requests_per_day: Annotated[int | None, whole(1, 1_000_000_000)] = None
    fetches: Annotated[RateRow | None, GIVEN] = None
    in_flight: Annotated[int | None, whole(1, 100_000)] = None

    @model_validator(mode="after")
    def _limits_something(self) -> ResourceLimitsRow:
        return self if self.model_fields_set - {"shared"} else wrong("at least one limit", got="none")

    def limits(self) -> Limits:
        return Limits(
            requests=self.requests.rate() if self.requests else None,
            requests_per_day=self.requests_per_day,
            fetches=self.fetches.rate() if self.fetches else None,
            in_flight=self.in_flight,
        )


# How the replicas of the gateway share limits.
_PER_REPLICA, _EXACT = "per_replica", "exact"
_LIMITS = tuple(ResourceLimitsRow.model_fields)


class LimitsRow(ResourceLimitsRow):
    """What a client may do in all, and with some resources besides."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"required": [name]} for name in (*_LIMITS, "streams", "resources")]}
    )

    resources: Annotated[
        Mapping[str, ResourceLimitsRow], Field(min_length=1), AfterValidator(_known_resources)
    ] = {}
    streams: Annotated[int, whole(1, 100_000)] = UNLIMITED.streams
    shared: Annotated[str, one_of((_PER_REPLICA, _EXACT))] = _PER_REPLICA

    def limits(self) -> Limits:
        resources = {name: row.limits() for name, row in self.resources.items()}
        exact = self.shared == _EXACT
        return replace(super().limits(), resources=resources, exact=exact, streams=self.streams)


class ChatsRow(Model):
    """Which chats a token is for."""

    claim: Annotated[str, text("the name of a claim", r".{1,128}")]


# -- the row -----------------------------------------------------------------------------------------------


class ClientRow(Model):
    """One client of `clients/*.yaml`."""

    mode: Annotated[str, one_of(("enforce", "shadow"))] = "enforce"
    match: Annotated[tuple[Condition, ...], PlainValidator(_match, _MATCH_SCHEMA)]
    accounts: Annotated[
        tuple[Annotated[str, text("an account id in quotes", r".*")], ...] | None,
        WrapValidator(_accounts, _ACCOUNTS_SCHEMA),
    ]
    chats: Annotated[ChatsRow | None, GIVEN] = None
    allow: Annotated[Entries, Field(min_length=1)]
    deny: Entries = ()
    view: Annotated[ViewRow | None, GIVEN] = None
    limits: Annotated[LimitsRow | None, GIVEN] = None
    priority: Annotated[str, one_of(_PRIORITIES)] = Priority.NORMAL.label
    visitor_ip: Annotated[str, one_of(choice.value for choice in VisitorIp)] = VisitorIp.PASS.value

    def client(self, name: str) -> Client:
        return Client(
            name,
            self.match,
            None if self.accounts is None else frozenset(self.accounts),
            self.allow,
            self.deny,
            chats=self.chats.claim if self.chats else None,
            view=self.view.view() if self.view else FULL,
            limits=self.limits.limits() if self.limits else Limits(),
            priority=_PRIORITIES[self.priority],
            visitor_ip=VisitorIp(self.visitor_ip),
        )
