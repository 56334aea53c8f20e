"""`policies/` as values: the resources that exist, and what each client may do.

The files can narrow what the gateway does, never widen it; the outer bounds are the tables at the top.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo

from gateway.config.checking import (
    FLAG,
    LISTED,
    Model,
    RepresentationName,
    Wrong,
    check,
    one_of,
    refuse_any,
    text,
    whole,
    written_as,
    wrong,
)
from gateway.config.clients import GIVEN, NAME, ClientRow
from gateway.config.documents import Document, read_file, reason_of
from gateway.config.doubts import as_warning, can_both_match, doubts
from gateway.config.mistakes import Mistake, dotted, quoted, shown, tidy
from gateway.core.messages import Representation
from gateway.core.paths import DROPPED
from gateway.core.policy import ACTIONS, CacheRule, Client, Policies, Resource, Streaming, is_field

M = TypeVar("M", bound=Model)
V = TypeVar("V")

#: What the values of a query name can be. A pattern must match the whole decoded value.
PATTERNS: Mapping[str, re.Pattern[str]] = {
    "digits": re.compile(r"[0-9]{1,18}"),
    "seconds": re.compile(r"[0-9]{1,4}|[1-7][0-9]{4}|8[0-5][0-9]{3}|86[0-3][0-9]{2}|86400"),
    "bool": re.compile(r"true|false"),
    "token": re.compile(r"[A-Za-z0-9_.-]{1,128}"),
    "ip": re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|(?=[0-9A-Fa-f.]*:)[0-9A-Fa-f:.]{2,45}"),
    "text": re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,256}"),
}

#: What every resource takes, and these come first.
COMMON_QUERY: Mapping[str, re.Pattern[str]] = {"v": re.compile(r"1"), "NC": PATTERNS["bool"]}

#: The actions a method can take, for paths of a chat (True) and of an account (False).
_ACTIONS_OF: Mapping[tuple[bool, str], tuple[str, ...]] = {
    (True, "GET"): ("chat:read",),
    (True, "POST"): ("chat:write",),
    (True, "PUT"): ("chat:write",),
    (False, "GET"): ("account:read",),
    (False, "POST"): ("account:write", "chat:start"),
    (False, "PUT"): ("account:write",),
}

# A tunnel for whole requests and the page that opens it: both defeat every rule that stands here.
_NEVER = frozenset({"js2rest", "hcp"})

_SEGMENT = re.compile(r"[A-Za-z][A-Za-z0-9]*(\.json)?|\{chat\}|\{event\}")
_PATH_SCHEMA = written_as(type="string", pattern=f"^(({_SEGMENT.pattern})(/({_SEGMENT.pattern}))*)?$")
_QUERY_NAME_SCHEMA: dict[str, Any] = {
    "pattern": "^[A-Za-z][A-Za-z0-9]*$",
    "not": {"enum": [*COMMON_QUERY, *sorted(DROPPED)]},
}
_METHODS = ("GET", "POST", "PUT")
_STREAMS = {kind.value: kind for kind in Streaming}
_NAMED = "a name of a letter and up to 63 letters, digits, - and _"


def _path(value: object) -> tuple[str, ...]:
    if value == "":
        return ()
    segments = tuple(value.split("/")) if isinstance(value, str) else ()
    if not _NEVER.isdisjoint(re.split(r"[/.]", str(value).lower())):
        wrong("no path with js2rest or hcp, which would let requests around these rules")
    if not segments or not all(_SEGMENT.fullmatch(segment) for segment in segments):
        wrong("a path of names (letters and digits) with / between them")
    for index, (before, here) in enumerate(pairwise(("", *segments))):
        if here == "{chat}" and (index, before) != (1, "chat"):
            wrong("{chat} only right after a leading chat/")
        if here == "{event}" and before != "events":
            wrong("{event} only right after events/")
        if "." in before:
            wrong(".json only at the end")
    return segments


def _chosen_methods(methods: Mapping[str, str], info: ValidationInfo) -> Mapping[str, str]:
    refuse_any(_wrong_methods(methods, info.data.get("path")))
    return methods


def _wrong_methods(methods: Mapping[str, str], path: tuple[str, ...] | None) -> Iterator[Wrong]:
    for method, action in methods.items():
        if method == "HEAD":
            yield Wrong("no HEAD, which goes with GET", "HEAD", (method,))
        elif method not in _METHODS:
            yield Wrong(f"one of {', '.join(_METHODS)}", shown((), method), (method,))
        elif path is not None and action not in (allowed := _ACTIONS_OF["{chat}" in path, method]):
            yield Wrong(" or ".join(allowed), action, (method,))


def _known_query(query: Mapping[str, str]) -> Mapping[str, str]:
    refuse_any(_wrong_query(query))
    return query


def _wrong_query(query: Mapping[str, str]) -> Iterator[Wrong]:
    for name in query:
        if name in COMMON_QUERY:
            yield Wrong("no v and NC, which every resource takes", name, (name,))
        elif name in DROPPED:
            yield Wrong(f"none of the names that are dropped ({', '.join(sorted(DROPPED))})", name, (name,))
        elif not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", name):
            yield Wrong("a name of letters and digits", shown((), name), (name,))


def _fitting_representations(
    representations: tuple[Representation, ...], info: ValidationInfo
) -> tuple[Representation, ...]:
    json = "".join(info.data.get("path", ())).endswith(".json")
    if json and representations != (Representation.JSON,):
        wrong("[json], as the path ends in .json", got="others")
    return representations


def _only_of_reads(value: V, info: ValidationInfo) -> V:
    if value and "GET" not in info.data.get("methods", ("GET",)):
        key = str(info.field_name)
        wrong("no such key without GET: only reads are kept and shared", got=key)
    return value


def _only_of_writes(max_body_bytes: int | None, info: ValidationInfo) -> int | None:
    if max_body_bytes is not None and {"POST", "PUT"}.isdisjoint(info.data.get("methods", ("POST",))):
        wrong("no such key without POST and PUT: only writes have bodies", got="max_body_bytes")
    return max_body_bytes


def _shared(cache: CacheRow | None, info: ValidationInfo) -> CacheRow | None:
    if cache and info.data.get("coalesce") is False:
        wrong("true, as the resource is cached", got="false", beside=("coalesce",))
    return cache


def _of_what_changes(stream: str | None, info: ValidationInfo) -> str | None:
    if stream is None:
        return None
    if info.data.get("cache") is None and "cache" in info.data:
        wrong("cache beside it: who waits for changes is told what is kept", got="none")
    from_number = info.data.get("query", {}).get("from") == "digits"
    if stream == Streaming.EVENTS.value and "query" in info.data and not from_number:
        wrong("from: digits in query, as events are told from a number on", got="none")
    return stream


def _of_a_field(from_info: bool, info: ValidationInfo) -> bool:
    path = info.data.get("path")
    if from_info and path is not None and not is_field(path):
        wrong("no such key: only what stands at chat/{chat}/info/... is a field of info", got="from_info")
    return from_info


class TtlMs(Model):
    """For how long an answer is fresh, by the state of its chat."""

    # The vendor tells clients to poll each 30 s, and a chat dies 40 s after its last request: what is left
    # of the ten seconds, less two for the way, is all that an answer may be kept.
    waiting: Annotated[int, whole(1, 8_000)]
    chatting: Annotated[int, whole(1, 8_000)]
    # An ended chat has no life to keep, but turns into 404 some time later.
    ended: Annotated[int, whole(1, 30_000)]


class CacheRow(Model):
    """The cache rule of a resource."""

    ttl_ms: TtlMs
    stale_ms: Annotated[int, whole(0, 8_000)] = 0
    volatile: Annotated[
        tuple[Annotated[str, text("the name of a field", r"[A-Za-z][A-Za-z0-9]{0,63}")], ...], LISTED
    ] = ()

    def rule(self) -> CacheRule:
        ttl_s = {state: ms / 1000 for state, ms in self.ttl_ms.model_dump().items()}
        return CacheRule(ttl_s, self.stale_ms / 1000, frozenset(self.volatile))


class ResourceRow(Model):
    """One row of `resources.yaml`."""

    path: Annotated[tuple[str, ...], PlainValidator(_path, _PATH_SCHEMA)]
    methods: Annotated[
        Mapping[str, Annotated[str, one_of(ACTIONS)]],
        Field(min_length=1, json_schema_extra={"propertyNames": {"enum": list(_METHODS)}}),
        AfterValidator(_chosen_methods),
    ]
    query: Annotated[
        Mapping[str, Annotated[str, one_of(PATTERNS)]],
        Field(json_schema_extra={"propertyNames": _QUERY_NAME_SCHEMA}),
        AfterValidator(_known_query),
    ] = {}
    representations: Annotated[
        tuple[RepresentationName, ...],
        LISTED,
        Field(min_length=1),
        AfterValidator(_fitting_representations),
        Field(default=("json", "xml"), validate_default=True),
    ]
    coalesce: Annotated[bool | None, FLAG, AfterValidator(_only_of_reads)] = None
    cache: Annotated[CacheRow | None, GIVEN, AfterValidator(_only_of_reads), AfterValidator(_shared)] = None
    max_body_bytes: Annotated[int | None, whole(1_024, 8_388_608), AfterValidator(_only_of_writes)] = None
    stream: Annotated[
        str | None, one_of(_STREAMS), AfterValidator(_only_of_reads), AfterValidator(_of_what_changes)
    ] = None
    from_info: Annotated[bool, FLAG, AfterValidator(_only_of_reads), AfterValidator(_of_a_field)] = False

    def resource(self, name: str) -> Resource:
        query = {**COMMON_QUERY, **{key: PATTERNS[pattern] for key, pattern in self.query.items()}}
        rule = self.cache.rule() if self.cache else None
        coalesce = self.coalesce if self.coalesce is not None else rule is not None
        return Resource(
            name,
            self.path,
            self.methods,
            query,
            self.representations,
            coalesce,
            rule,
            self.max_body_bytes,
            None if self.stream is None else _STREAMS[self.stream],
            self.from_info,
        )


def load_policies(
    folder: Path,
    accounts: frozenset[str] | None,
    issuers: frozenset[str] | None,
    version: int,
    *,
    named_by: Mapping[str, str] | None = None,
    shares: bool = True,
    shown_as: str = "",
) -> tuple[Policies | None, tuple[Mistake, ...]]:
    """Read `resources.yaml` and `clients/*.yaml`; no policies if a mistake is more than a warning.

    `accounts` and `issuers` are those of the settings, None if they are not known: then none is missed.
    `named_by` are issuers whose tokens name their client, and the claim that does. `shares` is False where
    the settings have no `redis_url`. `shown_as` stands before the files' names in the mistakes.
    """
    named_by = named_by or {}
    resources, mistakes = _resources(folder / "resources.yaml", f"{shown_as}resources.yaml")
    context = {
        "accounts": accounts,
        "issuers": issuers,
        "resources": None if mistakes else {row.name: row.methods for row in resources},
    }
    known = None if mistakes else resources
    rows, more = _clients(folder / "clients", f"{shown_as}clients", context)
    for row in rows:
        more += doubts(row.row, row.client.name, row.document, known, named_by, shares=shares)
    mistakes += [*more, *_overlaps(rows, named_by)]
    if any(mistake.severity == "error" for mistake in mistakes):
        return None, tidy(mistakes)
    told = tidy([*mistakes, *_mere_shadows(rows, f"{shown_as}clients")])
    clients = tuple(row.client for row in rows if not row.is_shadow)
    shadows = tuple(row.client for row in rows if row.is_shadow)
    return Policies(version, tuple(resources), clients, shadows), told


def _resources(path: Path, name: str) -> tuple[list[Resource], list[Mistake]]:
    document, rows, mistakes = _rows(path, name, "resources", ResourceRow, {})
    mistakes += _doubled_paths(document)
    # Names before ids: `chat/availability` is no chat, wherever it stands in the file.
    ordered = sorted(rows.items(), key=lambda item: [segment.startswith("{") for segment in item[1].path])
    return [row.resource(key) for key, row in ordered], mistakes


def _doubled_paths(document: Document) -> Iterator[Mistake]:
    taken: dict[str, str] = {}
    for key, row in _table(document, "resources").items():
        path = row.get("path") if isinstance(row, dict) else None
        if not isinstance(path, str):
            continue
        first = taken.setdefault(path.removesuffix(".json"), key)
        if first != key:
            expected = f"each path once (first in {dotted(('resources', first))})"
            yield document.mistake(("resources", key, "path"), expected, quoted(path))


@dataclass(frozen=True, slots=True)
class _Written:
    """A client, and the document it was read from."""

    client: Client
    row: ClientRow
    document: Document

    @property
    def is_shadow(self) -> bool:
        return self.row.mode == "shadow"

    @property
    def place(self) -> tuple[str, int]:
        """The file and line of its `match`."""
        return self.document.where(("clients", self.client.name, "match"))


def _clients(folder: Path, name: str, context: Mapping[str, Any]) -> tuple[list[_Written], list[Mistake]]:
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (OSError, ValueError) as error:
        return [], [Mistake(name, 0, "", "a readable folder", reason_of(error))]
    places: dict[str, str] = {}
    written: list[_Written] = []
    mistakes: list[Mistake] = []
    for path in files:
        if path.suffix == ".yml":
            mistakes.append(Mistake(f"{name}/{path.name}", 0, "", "a name that ends in .yaml", ".yml"))
        if path.suffix != ".yaml":
            continue
        document, rows, more = _rows(path, f"{name}/{path.name}", "clients", ClientRow, context)
        mistakes += [*more, *_doubled_clients(document, places)]
        written += (_Written(row.client(key), row, document) for key, row in rows.items())
    if not places and not mistakes:
        mistakes.append(Mistake(name, 0, "", "a file *.yaml with a client", "none"))
    return written, mistakes


def _doubled_clients(document: Document, places: dict[str, str]) -> Iterator[Mistake]:
    """Those named in an earlier file; `places` gets those of this one."""
    for key in _table(document, "clients"):
        file, line = document.where(("clients", key))
        first = places.setdefault(key, f"{file}:{line}")
        if first != f"{file}:{line}":
            yield document.mistake(("clients", key), f"each client once (first in {first})", "it again")


def _overlaps(rows: Sequence[_Written], named_by: Mapping[str, str]) -> Iterator[Mistake]:
    """A warning for each two clients in force that one token can match."""
    for first, second in combinations([row for row in rows if not row.is_shadow], 2):
        one, other = first.client, second.client
        if one.name == other.name or not can_both_match(one, other, named_by):
            continue
        there, line = first.place
        expected = f"a claim that differs from {one.name} ({there}:{line}): tokens matching both are refused"
        yield as_warning(second.document.mistake(("clients", other.name, "match"), expected, "none"))


def _mere_shadows(rows: Sequence[_Written], name: str) -> Iterator[Mistake]:
    """A warning for each shadow whose tokens let nobody in, or one for all."""
    enforced = [row.client for row in rows if not row.is_shadow]
    if not enforced:
        yield as_warning(Mistake(name, 0, "", "a client in force", "shadows alone: nobody is let in"))
        return
    for row in rows:
        if row.is_shadow and not any(can_both_match(row.client, client) for client in enforced):
            place = ("clients", row.client.name, "mode")
            expected = "a client in force for its tokens, without which they are refused"
            yield as_warning(row.document.mistake(place, expected, "none"))


def _rows(
    path: Path,
    name: str,
    section: Literal["resources", "clients"],
    model: type[M],
    context: Mapping[str, Any],
) -> tuple[Document, dict[str, M], list[Mistake]]:
    """The valid rows of a file that is one map of named rows."""
    document, mistakes = read_file(path, name)
    rows: dict[str, M] = {}
    if document.data is None and mistakes:
        return document, rows, mistakes
    sections = document.data if isinstance(document.data, dict) else {}
    table = _table(document, section)
    if not table:
        got = "an empty one" if sections.get(section) == {} else shown((), sections.get(section))
        return document, rows, [*mistakes, document.mistake((section,), "a map with at least one name", got)]
    mistakes += [document.mistake((key,), section, dotted((key,))) for key in sections if key != section]
    for key in table:
        if not re.fullmatch(NAME, key):
            mistakes.append(document.mistake((section, key), _NAMED, shown((), key)))
            continue
        row = check(model, document, (section, key), context)
        if isinstance(row, list):
            mistakes += row
        else:
            rows[key] = row
    return document, rows, mistakes


def _table(document: Document, section: str) -> Mapping[str, object]:
    """The rows as they were written."""
    table = document.data.get(section) if isinstance(document.data, dict) else None
    return table if isinstance(table, dict) else {}
